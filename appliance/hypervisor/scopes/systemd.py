"""Hosts with systemd: each VMM in a transient scope unit of its own, in the slice of all sandboxes.

A restart of cubelet.service does not reach the processes of another unit, and the unit's cgroup limits them.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from appliance.domain.errors import VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor.scopes.base import Limits

SLICE = "cube-vms.slice"


class _Service(NamedTuple):
    """An object on the bus, and which of its interfaces is meant."""

    name: str
    path: str
    interface: str


_SYSTEMD = _Service("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_BUS = _Service("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_JOB_REMOVED = f"type='signal',sender='{_SYSTEMD.name}',interface='{_SYSTEMD.interface}',member='JobRemoved'"

_UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
_EXISTS_ATTEMPTS = 20
_EXISTS_PAUSE_S = 0.05

_MIB = 2**20
_MICROSECONDS_PER_PERCENT = 10_000


def unit_name(vm_id: VmId) -> str:
    return f"cube-vm-{vm_id}.scope"


def unit_properties(vm_id: VmId, pid: int, limits: Limits) -> list[list[object]]:
    """Return the scope's properties as systemd takes them over D-Bus: pairs of name and value."""
    return [
        ["Description", Variant("s", f"Sandbox {vm_id}")],
        ["Slice", Variant("s", SLICE)],
        ["PIDs", Variant("au", [pid])],
        # A VMM that was killed would otherwise leave a failed unit behind, and its name in use.
        ["CollectMode", Variant("s", "inactive-or-failed")],
        ["MemoryMax", Variant("t", limits.memory_mib * _MIB)],
        ["CPUQuotaPerSecUSec", Variant("t", limits.cpu_percent * _MICROSECONDS_PER_PERCENT)],
        ["TasksMax", Variant("t", limits.tasks)],
    ]


class SystemdScopes:
    """Talks to systemd over one connection, made when first needed and again after it was lost."""

    def __init__(self, *, bus_address: str | None = None) -> None:
        """`bus_address` names another bus than the system's."""
        self._bus_address = bus_address
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        """Who waits for the job of a unit."""

    async def adopt(self, vm_id: VmId, pid: int, limits: Limits) -> None:
        unit = unit_name(vm_id)
        properties = unit_properties(vm_id, pid, limits)
        # Before the call: systemd may tell that the job has ended before it answers the call that made it.
        job = self._jobs[unit] = asyncio.get_running_loop().create_future()
        try:
            await self._start(unit, properties)
            result = await job
        except (DBusError, OSError, EOFError) as error:
            raise VmmFailure(f"systemd did not make {unit}: {error}") from error
        finally:
            del self._jobs[unit]
        if result != "done":
            raise VmmFailure(f"systemd did not make {unit}: its job ended as {result!r}; see `journalctl -u {unit}`")

    async def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def _start(self, unit: str, properties: list[list[object]]) -> None:
        bus = await self._connected()
        for attempts_left in reversed(range(_EXISTS_ATTEMPTS)):
            try:
                await _call(bus, _SYSTEMD, "StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "fail", properties, []])
            except DBusError as error:
                # A restore that is tried again comes before systemd has noticed the end of the first try.
                if error.type != _UNIT_EXISTS or not attempts_left:
                    raise
                await asyncio.sleep(_EXISTS_PAUSE_S)
            else:
                return

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                bus = MessageBus(bus_address=self._bus_address, bus_type=BusType.SYSTEM)
                await bus.connect()
                bus.add_message_handler(self._on_message)
                # Both are needed: systemd sends signals only if asked to, and the bus hands on only what is matched.
                await _call(bus, _BUS, "AddMatch", "s", [_JOB_REMOVED])
                await _call(bus, _SYSTEMD, "Subscribe", "", [])
                self._bus = bus
            return self._bus

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "JobRemoved":
            _, _, unit, result = message.body
            job = self._jobs.get(unit)
            if job is not None and not job.done():
                job.set_result(result)


async def _call(bus: MessageBus, service: _Service, member: str, signature: str, body: list[Any]) -> None:
    reply = await bus.call(
        Message(
            destination=service.name,
            path=service.path,
            interface=service.interface,
            member=member,
            signature=signature,
            body=body,
        )
    )
    # None where the connection was lost.
    if reply is None or reply.message_type is MessageType.ERROR:
        name = reply.error_name if reply is not None else None
        detail = reply.body[0] if reply is not None and reply.body else "no detail"
        raise DBusError(name or "org.freedesktop.DBus.Error.NoReply", str(detail))
