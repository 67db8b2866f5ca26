"""A sandbox's life, as CubeMaster records it: states, the legal transitions, and what each does to the record.

`creating` is the intent: the row, and the resources it reserves, exist before the node is asked for anything.
`killing` is the other intent: whatever happens next, the sandbox will not run again.
Every state but `ended` holds the reservation; `ended` never does, and never changes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from appliance.domain.errors import SandboxNotFound, SandboxTransitioning
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId
from appliance.domain.network import SandboxNetwork
from appliance.domain.placement import Resources


class SandboxState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
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
    SandboxState.RUNNING: frozenset({SandboxState.PAUSED, SandboxState.KILLING, SandboxState.ENDED}),
    SandboxState.PAUSED: frozenset({SandboxState.RUNNING, SandboxState.KILLING, SandboxState.ENDED}),
    SandboxState.KILLING: frozenset({SandboxState.ENDED}),
    SandboxState.ENDED: frozenset(),
}

LIVE = frozenset(SandboxState) - {SandboxState.ENDED}
"""States that hold resources on a node."""
CONCURRENT = LIVE - {SandboxState.PAUSED, SandboxState.KILLING}
"""States that count against a team's limit of sandboxes at one time."""
VISIBLE = frozenset({SandboxState.RUNNING, SandboxState.PAUSED})
"""States in which callers see and use a sandbox."""


@dataclass(frozen=True, slots=True)
class End:
    reason: EndReason
    detail: str
    at: datetime


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
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    """Whether traffic wakes it from a pause."""
    generation: int = 0
    """What its node counted of its pauses and resumes when this was written."""
    paused_at: datetime | None = None
    filesystem_only: bool = False
    """Whether it was paused without its memory."""
    address: str | None = None
    """IPv4 address under which its node reaches it, from `running` on."""
    end: End | None = None

    def started(self, *, address: str | None, envd_version: str, at: datetime) -> Sandbox:
        """Return it running."""
        return replace(self._to(SandboxState.RUNNING), address=address, envd_version=envd_version, started_at=at)

    def killing(self) -> Sandbox:
        """Return it on its way out. Safe to repeat; one that has ended is not found."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        return self if self.state is SandboxState.KILLING else self._to(SandboxState.KILLING)

    def ended(self, reason: EndReason, *, detail: str, at: datetime) -> Sandbox:
        """Return it ended. One that was being killed ended because of that, whatever the node saw last."""
        if self.state is SandboxState.KILLING:
            reason = EndReason.KILLED
        return replace(self._to(SandboxState.ENDED), end=End(reason, detail, at))

    def with_timeout(self, timeout: timedelta, *, now: datetime, extend_only: bool) -> Sandbox:
        """Return it with a new end, `timeout` from now; with `extend_only` never an earlier one than it has."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state not in VISIBLE:
            raise SandboxTransitioning(self.sandbox_id, _BEING[self.state])
        end_at = now + timeout
        return replace(self, end_at=max(self.end_at, end_at) if extend_only else end_at)

    def with_egress(self, *, allow_internet: bool, allow_out: tuple[str, ...], deny_out: tuple[str, ...]) -> Sandbox:
        """Return it with other rules for what it may reach. Who may reach it stays."""
        if self.state is SandboxState.ENDED:
            raise SandboxNotFound(self.sandbox_id)
        if self.state not in VISIBLE:
            raise SandboxTransitioning(self.sandbox_id, _BEING[self.state])
        network = replace(self.network, allow_internet=allow_internet, allow_out=allow_out, deny_out=deny_out)
        return replace(self, network=network)

    def _to(self, state: SandboxState) -> Sandbox:
        if state not in TRANSITIONS[self.state]:
            raise SandboxTransitioning(self.sandbox_id, _BEING.get(self.state, str(self.state)))
        return replace(self, state=state)


_BEING = {SandboxState.CREATING: "created", SandboxState.KILLING: "killed"}
