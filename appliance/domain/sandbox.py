"""A sandbox's life, as CubeMaster records it: states, the legal transitions, and what each does to the record.

`creating`, `pausing`, `resuming`, `snapshotting` and `rolling_back` are intents: the row, and the resources it
reserves, say so before the node is asked for anything. Where whoever asked has died, the node's word settles what
became of it.
`killing` is the last intent: whatever happens next, the sandbox will not run again.
What is paused holds no resources of its node but its disk; what has ended holds none, and never changes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from appliance.domain.errors import Conflict, SandboxNotFound, SandboxTransitioning
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId
from appliance.domain.network import SandboxNetwork
from appliance.domain.placement import Resources
from appliance.domain.volume import Mount


class SandboxState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    SNAPSHOTTING = "snapshotting"
    ROLLING_BACK = "rolling_back"
    KILLING = "killing"
    ENDED = "ended"


class OnTimeout(StrEnum):
    """What becomes of it when its time is up."""

    KILL = "kill"
    PAUSE = "pause"
    PAUSE_FILESYSTEM = "pause_filesystem"


class EndReason(StrEnum):
    KILLED = "killed"
    TIMEOUT = "timeout"
    OOM_GUEST = "oom_guest"
    OOM_HOST = "oom_host"
    GUEST_PANIC = "guest_panic"
    VMM_DIED = "vmm_died"
    NODE_LOST = "node_lost"
    NODE_REBOOTED = "node_rebooted"
    DISK_FULL = "disk_full"
    EVICTED = "evicted"
    FAILED_START = "failed_start"


TRANSITIONS: Mapping[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.RUNNING, SandboxState.KILLING, SandboxState.ENDED}),
    SandboxState.RUNNING: frozenset(
        {
            SandboxState.PAUSING,
            # By its node, when its time was up.
            SandboxState.PAUSED,
            SandboxState.SNAPSHOTTING,
            SandboxState.ROLLING_BACK,
            SandboxState.KILLING,
            SandboxState.ENDED,
        }
    ),
    SandboxState.PAUSING: frozenset(
        {SandboxState.PAUSED, SandboxState.RUNNING, SandboxState.KILLING, SandboxState.ENDED}
    ),
    SandboxState.PAUSED: frozenset({SandboxState.RESUMING, SandboxState.KILLING, SandboxState.ENDED}),
    SandboxState.RESUMING: frozenset(
        {SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.KILLING, SandboxState.ENDED}
    ),
    SandboxState.SNAPSHOTTING: frozenset(
        {SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.KILLING, SandboxState.ENDED}
    ),
    SandboxState.ROLLING_BACK: frozenset(
        {SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.KILLING, SandboxState.ENDED}
    ),
    SandboxState.KILLING: frozenset({SandboxState.ENDED}),
    SandboxState.ENDED: frozenset(),
}

LIVE = frozenset(SandboxState) - {SandboxState.ENDED}
"""States in which something of it may be on a node."""
CONCURRENT = LIVE - {SandboxState.PAUSED, SandboxState.KILLING}
"""States that count against a team's limit of sandboxes at one time."""
VISIBLE = LIVE - {SandboxState.CREATING, SandboxState.KILLING}
"""States in which callers see and use a sandbox."""
AWAKE = frozenset({SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.SNAPSHOTTING, SandboxState.ROLLING_BACK})
"""States that callers see as running; the other visible ones are paused to them."""
CHANGING = frozenset(
    {SandboxState.PAUSING, SandboxState.RESUMING, SandboxState.SNAPSHOTTING, SandboxState.ROLLING_BACK}
)
"""States that somebody's call, or else the node's word, leads out of."""
REACHED = frozenset({SandboxState.RUNNING, SandboxState.SNAPSHOTTING})
"""States in which traffic goes to it. A snapshot only holds it up."""


@dataclass(frozen=True, slots=True)
class End:
    reason: EndReason
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """What its node says of a sandbox it has."""

    paused: bool
    generation: int
    paused_at: datetime | None
    filesystem_only: bool
    address: str | None


@dataclass(frozen=True, slots=True)
class KeptRules:
    """What is known of a sandbox's network rules without opening those that may hold credentials."""

    revision: str = ""
    """What all of them are called: another name with each change, also of a secret or a token that they use. Says
    nothing of what they are."""
    sealed: bool = False
    """Whether there are header rules or an egress proxy, which are kept sealed."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that header rules use."""
    tokens_due_at: datetime | None = None
    """When the workload tokens in header rules are to be renewed; None where there are none."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    sandbox_id: SandboxId
    team_id: TeamId
    template_id: TemplateId
    build_id: BuildId
    alias: str | None
    """The name of the template when the sandbox was made."""
    node_id: NodeId
    state: SandboxState
    resources: Resources
    disk_size_mib: int
    envd_version: str
    secure: bool
    started_at: datetime
    end_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    network: SandboxNetwork = field(default_factory=SandboxNetwork)
    rules: KeptRules = field(default_factory=KeptRules)
    workload_tokens: Mapping[str, str] = field(default_factory=dict)
    """The audience of each workload token that header rules may name."""
    volumes: tuple[Mount, ...] = ()
    """What it was made with. It has them until it ends."""
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    """Whether traffic wakes it from a pause."""
    generation: int = 0
    """What its node counted of its pauses, resumes and rollbacks when this was written."""
    paused_at: datetime | None = None
    """Since when it is paused; still there while it resumes, and while it is killed out of a pause."""
    filesystem_only: bool = False
    """Whether it was paused without its memory."""
    changing_since: datetime | None = None
    """When it came into the `CHANGING` state it is in."""
    address: str | None = None
    """IPv4 address under which its node reaches it, from `running` on."""
    end: End | None = None

    @property
    def machines(self) -> int:
        """For how many machines resources of its node are reserved for it."""
        match self.state:
            case SandboxState.PAUSED | SandboxState.ENDED:
                return 0
            case SandboxState.KILLING:
                return int(self.paused_at is None)
            case SandboxState.ROLLING_BACK:
                # The one it has, and the one that takes its place.
                return 2
        return 1

    @property
    def wakes(self) -> bool:
        """Whether traffic may resume it: it must not lose its processes to somebody's request."""
        return self.auto_resume and not self.filesystem_only

    def started(self, *, address: str | None, envd_version: str, at: datetime, generation: int = 0) -> Sandbox:
        """Return it running, its create done; a pause or a snapshot that is over is no start."""
        if self.state is not SandboxState.CREATING:
            raise SandboxTransitioning(self.sandbox_id, _BEING.get(self.state, str(self.state)))
        return replace(
            self._to(SandboxState.RUNNING),
            address=address,
            envd_version=envd_version,
            started_at=at,
            generation=generation,
        )

    def pausing(self, *, at: datetime) -> Sandbox:
        return replace(self._from_running(SandboxState.PAUSING, "paused"), changing_since=at)

    def snapshotting(self, *, at: datetime, what: str = "snapshotted") -> Sandbox:
        self.check_copyable(what)
        return replace(self._from_running(SandboxState.SNAPSHOTTING, what), changing_since=at)

    def check_copyable(self, what: str) -> None:
        """Raise Conflict where it has volumes: two sandboxes would write to one disk."""
        if self.volumes:
            names = ", ".join(f"'{one.name}'" for one in self.volumes)
            raise Conflict(
                f"Sandbox '{self.sandbox_id}' cannot be {what}: it has the volumes {names}, and a volume belongs to"
                " one sandbox alone; use one without volumes"
            )

    def rolling_back(self, *, at: datetime) -> Sandbox:
        self.check_copyable("rolled back")
        return replace(self._from_running(SandboxState.ROLLING_BACK, "rolled back"), changing_since=at)

    def resuming(self, timeout: timedelta, *, at: datetime, on_timeout: OnTimeout | None = None) -> Sandbox:
        """Return it on its way back, to end `timeout` from now."""
        if self.state in REACHED:
            raise Conflict(f"Sandbox {self.sandbox_id} is already running")
        return replace(
            self._to(SandboxState.RESUMING),
            changing_since=at,
            end_at=at + timeout,
            on_timeout=self.on_timeout if on_timeout is None else on_timeout,
        )

    def settled(self, seen: Observation, *, at: datetime) -> Sandbox:
        """Return it as its node has it, which is what counts between running and paused.

        An observation that is older than the record changes nothing.
        """
        if self.state not in CHANGING and self.state is not SandboxState.RUNNING:
            return self
        if seen.generation < self.generation:
            return self
        if seen.paused:
            # Of the generation in which it was recorded as running it cannot be paused.
            if self.state is SandboxState.RUNNING and seen.generation == self.generation:
                return self
            return replace(
                self._to(SandboxState.PAUSED),
                generation=seen.generation,
                paused_at=seen.paused_at or self.paused_at or at,
                filesystem_only=seen.filesystem_only,
                address=None,
                changing_since=None,
            )
        running = self if self.state is SandboxState.RUNNING else self._to(SandboxState.RUNNING)
        return replace(
            running,
            generation=seen.generation,
            paused_at=None,
            filesystem_only=False,
            address=seen.address,
            changing_since=None,
        )

    def unheard(self) -> Sandbox:
        """Return it running, as if nothing had been asked: its node says that it has no such sandbox."""
        if self.state not in {SandboxState.PAUSING, SandboxState.SNAPSHOTTING, SandboxState.ROLLING_BACK}:
            return self
        return replace(self._to(SandboxState.RUNNING), changing_since=None)

    def out_of_reach(self, *, at: datetime) -> Sandbox | None:
        """Return what is believed of it while its node is lost, or None where that ends it.

        What is paused, or was about to be, is on the node's disk; when the node returns it has the last word.
        """
        if self.state is SandboxState.PAUSED:
            return self
        if self.state not in {SandboxState.PAUSING, SandboxState.RESUMING}:
            return None
        return replace(self._to(SandboxState.PAUSED), paused_at=self.paused_at or at, address=None, changing_since=None)

    def killing(self) -> Sandbox:
        """Return it on its way out. Safe to repeat; one that has ended is not found."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state is SandboxState.KILLING:
            return self
        paused_at = self.paused_at if self.state is SandboxState.PAUSED else None
        return replace(self._to(SandboxState.KILLING), paused_at=paused_at, changing_since=None)

    def ended(self, reason: EndReason, *, detail: str, at: datetime) -> Sandbox:
        """Return it ended. One that was being killed ended because of that, whatever the node saw last."""
        if self.state is SandboxState.KILLING:
            reason = EndReason.KILLED
        return replace(
            self._to(SandboxState.ENDED),
            changing_since=None,
            rules=replace(self.rules, sealed=False, secrets=(), tokens_due_at=None),
            end=End(reason, detail, at),
        )

    def with_timeout(self, timeout: timedelta, *, now: datetime, extend_only: bool) -> Sandbox:
        """Return it with a new end, `timeout` from now; with `extend_only` never an earlier one than it has."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state is SandboxState.PAUSED:
            raise Conflict(f"Sandbox '{self.sandbox_id}' is paused, so no time runs; resume it, with a new timeout")
        if self.state not in REACHED:
            raise SandboxTransitioning(self.sandbox_id, _BEING[self.state])
        end_at = now + timeout
        return replace(self, end_at=max(self.end_at, end_at) if extend_only else end_at)

    def with_egress(self, network: SandboxNetwork) -> Sandbox:
        """Return it with other rules for what it may reach. Who may reach it stays."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state not in VISIBLE:
            raise SandboxTransitioning(self.sandbox_id, _BEING[self.state])
        return replace(
            self,
            network=replace(
                self.network,
                allow_internet=network.allow_internet,
                allow_out=network.allow_out,
                deny_out=network.deny_out,
                dns_servers=network.dns_servers,
            ),
        )

    def _from_running(self, state: SandboxState, what: str) -> Sandbox:
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state is SandboxState.PAUSED:
            raise Conflict(f"Sandbox '{self.sandbox_id}' cannot be {what} while in '{self.state}' state")
        return self._to(state)

    def _to(self, state: SandboxState) -> Sandbox:
        if state not in TRANSITIONS[self.state]:
            raise SandboxTransitioning(self.sandbox_id, _BEING.get(self.state, str(self.state)))
        return replace(self, state=state)


_BEING = {
    SandboxState.CREATING: "created",
    SandboxState.PAUSING: "paused",
    SandboxState.RESUMING: "resumed",
    SandboxState.SNAPSHOTTING: "snapshotted",
    SandboxState.ROLLING_BACK: "rolled back",
    SandboxState.KILLING: "killed",
}
