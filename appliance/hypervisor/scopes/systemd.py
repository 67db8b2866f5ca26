"""Hosts with systemd: each VMM in a transient scope unit of its own, in the slice of all sandboxes.

A restart of cubelet.service does not reach the processes of another unit, and the unit's cgroup limits them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from appliance.domain.errors import VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor.scopes.base import Limits

SLICE = "cube-vms.slice"

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
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
        # Before the call: systemd may tell that the job has ended before it answers the call that made it.
        job = self._jobs[unit] = asyncio.get_running_loop().create_future()
        try:
            bus = await self._connected()
            properties = unit_properties(vm_id, pid, limits)
            await _call(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "fail", properties, []])
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

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                bus = MessageBus(bus_address=self._bus_address, bus_type=BusType.SYSTEM)
                await bus.connect()
                bus.add_message_handler(self._on_message)
                # Without it systemd sends no signals.
                await _call(bus, "Subscribe", "", [])
                self._bus = bus
            return self._bus

    def _on_message(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "JobRemoved":
            _, _, unit, result = message.body
            job = self._jobs.get(unit)
            if job is not None and not job.done():
                job.set_result(result)


async def _call(bus: MessageBus, member: str, signature: str, body: list[Any]) -> None:
    reply = await bus.call(
        Message(
            destination=_SYSTEMD,
            path="/org/freedesktop/systemd1",
            interface=_MANAGER,
            member=member,
            signature=signature,
            body=body,
        )
    )
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name or "unnamed error", str(reply.body[0]) if reply.body else "no detail")
