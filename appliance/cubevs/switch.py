"""CubeVS on a real node: taps, their programs and maps, routes, and the packet filter behind them.

All state is in the kernel: device names give index and address, pinned maps hold admissions and sessions. A new Cubelet
therefore adopts what a former one left by looking, and nothing a guest may do depends on a process that can die.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import structlog

from appliance.cubevs import firewall, netlink, sockets, taps
from appliance.cubevs.base import (
    GATEWAY_MAC,
    HARD_DENIED_NETWORKS,
    PROXY_HTTP_PORT,
    PROXY_TLS_PORT,
    DropReason,
    EgressPolicy,
    Tap,
)
from appliance.cubevs.egress import authority, rule_files
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.seed import node_seed
from appliance.cubevs.kernel import is_bpffs
from appliance.cubevs.loader import KernelHeaders, Programs, forget_other_programs, load_programs
from appliance.cubevs.maps import (
    DEFAULT_BPFFS,
    MAX_TAPS,
    ONLY_KEY,
    PROXIED,
    UNADMITTED,
    Config,
    Maps,
    NetworkKey,
    TapEntry,
    TapFlag,
    let_read_diverted,
    maps_directory,
    open_maps,
    pack_index,
    pack_mark,
    replace_set,
    unpack_index,
)
from appliance.cubevs.policy_entries import forget_policy, policy_keys, tap_flags
from appliance.cubevs.reaper import reap_sessions, stale_policy
from appliance.domain.errors import NetworkFailure
from appliance.domain.ids import SandboxId

log = structlog.get_logger()

NODE_DEVICE: Final = "cube0"
DEFAULT_NETWORK: Final = IPv4Network("10.88.0.0/16")

# What an operator may replace, on a node whose sandboxes are to reach the private network.
DEFAULT_DENIED_NETWORKS: Final = tuple(
    IPv4Network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """What the node's operator decides. Idle times follow the kernel's connection tracking, as masquerade does."""

    network: IPv4Network = DEFAULT_NETWORK
    bpffs: Path = DEFAULT_BPFFS
    """Where a BPF file system is mounted; not under /sys, which containers see read-only."""
    dns_address: IPv4Address | None = DEFAULT_NETWORK[1]
    """Where guests' questions to their gateway, port 53, are sent. None: guests have no DNS."""
    denied_networks: tuple[IPv4Network, ...] = DEFAULT_DENIED_NETWORKS
    sessions_per_tap: int = 4096
    """Flows one guest may have open, about 100 bytes each, taken at tap creation."""
    tcp_idle: timedelta = timedelta(days=5)
    tcp_closed: timedelta = timedelta(minutes=2)
    datagram_idle: timedelta = timedelta(minutes=3)
    kernel_headers: KernelHeaders | None = None
    """Where BCC finds kernel headers; None: found under /lib/modules."""
    egress_rules: Path = rule_files.DEFAULT_DIRECTORY
    """Where the rules of sandboxes are left for the egress proxy: on a tmpfs, they hold secrets. The directory's group
    is the proxy's."""
    egress_seed: Path = Path("/var/lib/cube/egress-seed")
    """What the certificate authorities of sandboxes come from; made at the first start."""
    vmm_uid_base: int = 100_000
    """The VMM behind tap N runs as this plus N, who owns the tap: what one VMM owns, another cannot open or signal."""

    @property
    def node_address(self) -> IPv4Address:
        """The node's own address on the sandbox network: its first."""
        return self.network[1]


class CubeVS:
    """The `Switch` of a real node; see `base.Switch`. Works in the network namespace of its process.

    Changes of one tap wait for each other only, so that an admission, which a create waits for, never queues behind the
    15 ms that the kernel takes to swap another tap's sessions.
    """

    def __init__(self, settings: SwitchSettings) -> None:
        self._settings = settings
        self._making = asyncio.Lock()
        self._changing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)  # by ifindex
        self._started: _Started | None = None
        self.resets_connections = False
        """Can `revoke` abort the node's own connections? Known once started. Where not, their deadlines end them."""

    async def start(self) -> None:
        async with self._making:
            settings = self._settings
            if not is_bpffs(settings.bpffs):
                raise NetworkFailure(f"{settings.bpffs} is no BPF file system: mount one there (mount -t bpf bpf ...)")
            await self._hold_node_address()
            firewall.enable_forwarding()
            await firewall.apply(
                firewall.ruleset(settings.network, settings.dns_address, flows_per_guest=settings.sessions_per_tap)
            )
            maps = open_maps(maps_directory(settings.bpffs), sessions_per_tap=settings.sessions_per_tap)
            self._let_proxy_in()
            replace_set(maps.denied, _denied_keys((*HARD_DENIED_NETWORKS, *settings.denied_networks)))
            replace_set(maps.node_addresses, {a.packed for a in await netlink.local_addresses()})
            maps.config.put(ONLY_KEY, self._config().pack())
            programs_root = maps_directory(settings.bpffs).with_name("programs")
            programs = await load_programs(maps_directory(settings.bpffs), programs_root, settings.kernel_headers)
            if self._started:
                self._started.programs.close()
            self._started = _Started(maps, programs, self._seed())
            await self._adopt(self._started)
            forget_other_programs(programs_root, programs.digest)
            self.resets_connections = sockets.can_abort()
            if not self.resets_connections:
                log.warning("connections_outlive_sandboxes", cause="this kernel lacks CONFIG_INET_DIAG_DESTROY")

    async def create_tap(self) -> Tap:
        async with self._making, AsyncExitStack() as undo:
            started = self._require_started()
            index = self._free_index()
            name, address = taps.tap_name(index), taps.tap_address(self._settings.network, index)
            try:
                taps.make_tap(name, owner=self._settings.vmm_uid_base + index)
            except OSError as error:
                raise NetworkFailure(f"cannot make {name}: {error}") from error
            tap = Tap(name=name, ifindex=socket.if_nametoindex(name), address=address)
            undo.push_async_callback(self._remove, tap, started.maps)
            await netlink.prepare(tap.ifindex)
            await self._set_up(tap, started)
            undo.pop_all()
            return tap

    def open_tap(self, tap: Tap) -> int:
        # Asking for a name that is not there would make a device, with no program on it.
        if not _is_present(tap):
            raise NetworkFailure(f"{tap.name} is no tap of this node")
        try:
            return taps.open_tap(tap.name)
        except OSError as error:
            busy = " (a VMM has it open)" if error.errno == errno.EBUSY else ""
            raise NetworkFailure(f"cannot open {tap.name}{busy}: {error}") from error

    async def admit(self, tap: Tap, sandbox_id: SandboxId, policy: EgressPolicy) -> None:
        async with self._changing[tap.ifindex]:
            maps = self._require_started().maps
            former = self._entry(tap, maps)
            generation = (former.generation + 1) & 0xFFFFFFFF
            # The programs look under the generation that the tap's entry names: writing the entry switches over.
            try:
                for key in policy_keys(tap.ifindex, generation, policy):
                    maps.policy.put(key.pack(), pack_mark())
                with self._published(tap, sandbox_id, policy):
                    entry = TapEntry(tap.address, tap_flags(policy), generation)
                    maps.taps.put(pack_index(tap.ifindex), entry.pack())
            except OSError as error:
                # The next policy is written under the same generation, and must not find what this one left.
                forget_policy(maps, tap.ifindex, keep=former.generation)
                raise NetworkFailure(f"cannot write the network rules of {tap.name}: {error}") from error
            if TapFlag.ADMITTED in former.flags:
                # A program that began under the former policy would find half of it.
                await asyncio.to_thread(maps.wait_for_programs, tap.ifindex)
                forget_policy(maps, tap.ifindex, keep=generation)
            await netlink.label(tap.ifindex, sandbox_id)

    def trusted_certificate(self, sandbox_id: SandboxId) -> str:
        seed = self._require_started().seed
        return authority.Authority(sandbox_id, authority.sandbox_key(seed, sandbox_id)).certificate()

    async def revoke(self, tap: Tap) -> None:
        async with self._changing[tap.ifindex]:
            maps = self._require_started().maps
            if _is_known(tap, maps):
                await self._revoke(tap, maps)

    async def delete_tap(self, tap: Tap) -> None:
        async with self._changing[tap.ifindex]:
            maps = self._require_started().maps
            if _is_known(tap, maps):
                await self._revoke(tap, maps)
            await self._remove(tap, maps)
        self._changing.pop(tap.ifindex, None)

    async def taps(self) -> tuple[Tap, ...]:
        found = []
        for link in await netlink.links(taps.TAP_PREFIX):
            if (index := taps.tap_index(link.name)) is not None:
                found.append((index, Tap(link.name, link.ifindex, taps.tap_address(self._settings.network, index))))
        return tuple(tap for _, tap in sorted(found, key=lambda item: item[0]))

    async def drops(self) -> dict[DropReason, int]:
        return self._require_started().maps.drops()

    async def reap(self) -> None:
        maps = self._require_started().maps
        replace_set(maps.node_addresses, {a.packed for a in await netlink.local_addresses()})
        await asyncio.to_thread(reap_sessions, maps, self._config())

    @contextmanager
    def _published(self, tap: Tap, sandbox_id: SandboxId, policy: EgressPolicy) -> Iterator[None]:
        """Publish what the proxy is to know while the block switches the programs. Where it fails, the former stays.

        The proxy knows the new rules before the programs send it what they are for, and keeps the old no longer than
        they are in force: at no time does it let pass what neither policy allows.
        """
        directory = self._settings.egress_rules
        if not tap_flags(policy) & PROXIED:
            yield
            rule_files.withdraw(directory, tap.address)
            return
        seed = self._require_started().seed
        former = rule_files.read(directory, tap.address)
        rules = SandboxRules(
            sandbox_id=sandbox_id,
            allow_internet=policy.allow_internet,
            allow=policy.allow,
            deny=policy.deny,
            allow_domains=policy.allow_domains,
            tunnel=policy.tunnel,
            sandbox_network=self._settings.network,
            denied_networks=self._settings.denied_networks,
            header_rules=policy.header_rules,
            authority_key=authority.sandbox_key(seed, sandbox_id).hex() if policy.header_rules else "",
        )
        rule_files.publish(directory, tap.address, rules)
        try:
            yield
        except OSError:
            if former is None:
                rule_files.withdraw(directory, tap.address)
            else:
                rule_files.publish(directory, tap.address, former)
            raise

    def _let_proxy_in(self) -> None:
        """Let whoever may read the rules read where flows were sent, too."""
        try:
            group = self._settings.egress_rules.stat().st_gid
        except FileNotFoundError:  # then nobody is admitted under rules for a proxy either
            return
        let_read_diverted(self._settings.bpffs, group)

    def _require_started(self) -> _Started:
        if self._started is None:
            raise NetworkFailure("CubeVS is not started")
        return self._started

    def _seed(self) -> bytes:
        try:
            return node_seed(self._settings.egress_seed)
        except (OSError, ValueError) as error:
            raise NetworkFailure(f"there is no seed for the certificates of sandboxes: {error}") from error

    def _config(self) -> Config:
        settings = self._settings
        return Config(
            node_address=settings.node_address,
            sandbox_network=settings.network,
            dns_address=settings.dns_address or IPv4Address(0),
            tcp_idle_s=int(settings.tcp_idle.total_seconds()),
            tcp_closed_s=int(settings.tcp_closed.total_seconds()),
            datagram_idle_s=int(settings.datagram_idle.total_seconds()),
            proxy_http_port=PROXY_HTTP_PORT,
            proxy_tls_port=PROXY_TLS_PORT,
        )

    async def _hold_node_address(self) -> None:
        try:
            ifindex = socket.if_nametoindex(NODE_DEVICE)
        except OSError:
            taps.make_address_holder(NODE_DEVICE)
            ifindex = socket.if_nametoindex(NODE_DEVICE)
        await netlink.hold_address(ifindex, self._settings.node_address)

    async def _adopt(self, started: _Started) -> None:
        """Bring every tap that is there under today's programs, and forget what the maps hold of others."""
        maps = started.maps
        present = await self.taps()
        # A Cubelet that died while it made a tap may have left one half made.
        half_made = {link.ifindex for link in await netlink.links(taps.TAP_PREFIX) if link.mac != GATEWAY_MAC}
        for tap in present:
            if tap.ifindex in half_made:
                await netlink.prepare(tap.ifindex)
            await self._set_up(tap, started)
        indices = {tap.ifindex for tap in present}
        for stale in (set(maps.taps.keys()) | set(maps.sessions.keys())) - {pack_index(i) for i in indices}:
            maps.taps.delete(stale)
            maps.sessions.delete(stale)
        known = maps.taps.keys()
        generations = {unpack_index(key): self._generation(key, maps) for key in known}
        for key in stale_policy(maps.policy.keys(), generations):
            maps.policy.delete(key)
        admitted = {tap.address for tap in present if self._entry(tap, maps).flags & PROXIED}
        for address in rule_files.published(self._settings.egress_rules) - admitted:
            rule_files.withdraw(self._settings.egress_rules, address)

    async def _set_up(self, tap: Tap, started: _Started) -> None:
        """Make a tap work, unadmitted unless it is admitted already. What guards it comes before its first packet."""
        key = pack_index(tap.ifindex)
        found = started.maps.taps.get(key)
        if found is None or TapEntry.unpack(found).address != tap.address:
            started.maps.taps.put(key, TapEntry(tap.address).pack())
            await asyncio.to_thread(started.maps.fresh_sessions, tap.ifindex)
        elif started.maps.sessions.get(key) is None:
            await asyncio.to_thread(started.maps.fresh_sessions, tap.ifindex)
        await netlink.attach(tap.ifindex, started.programs)
        await netlink.connect(tap.ifindex, tap.address, source=self._settings.node_address)

    def _entry(self, tap: Tap, maps: Maps) -> TapEntry:
        found = maps.taps.get(pack_index(tap.ifindex))
        if found is None or not _is_present(tap):
            raise NetworkFailure(f"{tap.name} is no tap of this node")
        return TapEntry.unpack(found)

    def _generation(self, key: bytes, maps: Maps) -> int:
        found = maps.taps.get(key)
        return TapEntry.unpack(found).generation if found else 0

    async def _revoke(self, tap: Tap, maps: Maps) -> None:
        entry = self._entry(tap, maps)
        maps.taps.put(pack_index(tap.ifindex), TapEntry(tap.address, UNADMITTED, entry.generation).pack())
        rule_files.withdraw(self._settings.egress_rules, tap.address)
        # First the sockets, whose last resets are packets of the node's that open sessions anew, then the sessions.
        if self.resets_connections:
            await asyncio.to_thread(sockets.abort_connections, tap.address)
        await asyncio.to_thread(maps.fresh_sessions, tap.ifindex)
        forget_policy(maps, tap.ifindex, keep=None)
        await netlink.label(tap.ifindex, "")

    async def _remove(self, tap: Tap, maps: Maps) -> None:
        if _is_present(tap):
            await netlink.delete(tap.ifindex)
        maps.taps.delete(pack_index(tap.ifindex))
        maps.sessions.delete(pack_index(tap.ifindex))
        forget_policy(maps, tap.ifindex, keep=None)

    def _free_index(self) -> int:
        """Return the lowest index without a device. The kernel is asked, so that a stray tap is never reused."""
        for index in range(1, min(MAX_TAPS, taps.highest_index(self._settings.network)) + 1):
            try:
                socket.if_nametoindex(taps.tap_name(index))
            except OSError:
                return index
        raise NetworkFailure(f"all addresses of {self._settings.network} have taps")


@dataclass(frozen=True, slots=True)
class _Started:
    maps: Maps
    programs: Programs
    seed: bytes = field(repr=False)


def _denied_keys(networks: Sequence[IPv4Network]) -> set[bytes]:
    return {NetworkKey(network).pack() for network in networks}


def _is_known(tap: Tap, maps: Maps) -> bool:
    return _is_present(tap) and maps.taps.get(pack_index(tap.ifindex)) is not None


def _is_present(tap: Tap) -> bool:
    """Is the device still the one that `tap` names? An ifindex is not used twice, a name is."""
    try:
        return socket.if_nametoindex(tap.name) == tap.ifindex
    except OSError:
        return False
