"""Scopes asked of a stand-in for systemd on a message bus of its own: the wire, the waiting, and the refusals."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from appliance.domain.errors import VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor.scopes.base import Limits
from appliance.hypervisor.scopes.systemd import SystemdScopes

LIMITS = Limits(memory_mib=768, cpu_percent=100, tasks=99)

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")


class StandIn:
    """Answers as systemd's manager does: the job's end is told first, as happens when it is quick."""

    def __init__(self, bus: MessageBus) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.job_result = "done"
        self.refusals: list[tuple[str, str]] = []
        """Errors to answer with first: name and message."""
        self._bus = bus
        bus.add_message_handler(self._answer)

    def _answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.destination != "org.freedesktop.systemd1":
            return None
        if message.member == "Subscribe":
            return Message.new_method_return(message)
        unit, _, properties, _ = message.body
        if self.refusals:
            return Message.new_error(message, *self.refusals.pop(0))
        self.started.append((unit, {name: value.value for name, value in properties}))
        for name in ("another.service", unit):
            signal = Message.new_signal(
                "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager",
                "JobRemoved",
                "uoss",
                [7, "/org/freedesktop/systemd1/job/7", name, self.job_result],
            )
            self._bus.send(signal)
        return Message.new_method_return(message, "o", ["/org/freedesktop/systemd1/job/7"])


@pytest.fixture
async def bus_address(tmp_path: Path) -> AsyncIterator[str]:
    address = f"unix:path={tmp_path}/bus"
    configuration = tmp_path / "bus.conf"
    configuration.write_text(
        f"""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
            "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
        <busconfig><listen>{address}</listen><policy context="default">
        <allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
        </policy></busconfig>"""
    )
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address", stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(10):
            await daemon.stdout.readline()
        yield address
    finally:
        daemon.kill()
        await daemon.stdout.read()
        await daemon.wait()


@pytest.fixture
async def systemd(bus_address: str) -> AsyncIterator[StandIn]:
    bus = await MessageBus(bus_address=bus_address).connect()
    await bus.request_name("org.freedesktop.systemd1")
    yield StandIn(bus)
    bus.disconnect()


@pytest.fixture
async def scopes(bus_address: str) -> AsyncIterator[SystemdScopes]:
    scopes = SystemdScopes(bus_address=bus_address)
    yield scopes
    await scopes.close()


async def test_process_is_put_into_a_scope_with_limits(scopes: SystemdScopes, systemd: StandIn) -> None:
    async with asyncio.timeout(10):
        await scopes.adopt(VmId("i1"), 4711, LIMITS)
    ((unit, properties),) = systemd.started
    assert unit == "cube-vm-i1.scope"
    assert properties["PIDs"] == [4711]
    assert properties["MemoryMax"] == 768 * 2**20


async def test_several_at_once_are_told_apart(scopes: SystemdScopes, systemd: StandIn) -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(*(scopes.adopt(VmId(f"i{n}"), n, LIMITS) for n in range(1, 21)))
    assert {unit for unit, _ in systemd.started} == {f"cube-vm-i{n}.scope" for n in range(1, 21)}


async def test_refusal_is_told(scopes: SystemdScopes, systemd: StandIn) -> None:
    systemd.refusals = [("org.freedesktop.systemd1.NoSuchProcess", "Process with ID 4711 does not exist.")]
    async with asyncio.timeout(10):
        with pytest.raises(VmmFailure, match="4711 does not exist"):
            await scopes.adopt(VmId("i1"), 4711, LIMITS)


async def test_scope_of_a_former_try_may_take_a_moment_to_go(scopes: SystemdScopes, systemd: StandIn) -> None:
    systemd.refusals = [("org.freedesktop.systemd1.UnitExists", "Unit cube-vm-i1.scope was already loaded")] * 2
    async with asyncio.timeout(10):
        await scopes.adopt(VmId("i1"), 4711, LIMITS)
    assert len(systemd.started) == 1


async def test_scope_that_stays_is_an_error(scopes: SystemdScopes, systemd: StandIn) -> None:
    systemd.refusals = [("org.freedesktop.systemd1.UnitExists", "Unit cube-vm-i1.scope was already loaded")] * 100
    async with asyncio.timeout(10):
        with pytest.raises(VmmFailure, match="already loaded"):
            await scopes.adopt(VmId("i1"), 4711, LIMITS)


async def test_failed_job_is_told(scopes: SystemdScopes, systemd: StandIn) -> None:
    systemd.job_result = "failed"
    async with asyncio.timeout(10):
        with pytest.raises(VmmFailure, match=r"'failed'; see `journalctl -u cube-vm-i1\.scope`"):
            await scopes.adopt(VmId("i1"), 4711, LIMITS)


async def test_connection_that_was_lost_is_made_again(scopes: SystemdScopes, systemd: StandIn) -> None:
    async with asyncio.timeout(10):
        await scopes.adopt(VmId("i1"), 4711, LIMITS)
        await scopes.close()
        await scopes.adopt(VmId("i2"), 4712, LIMITS)
    assert [unit for unit, _ in systemd.started] == ["cube-vm-i1.scope", "cube-vm-i2.scope"]


async def test_absent_bus_is_an_error(tmp_path: Path) -> None:
    scopes = SystemdScopes(bus_address=f"unix:path={tmp_path}/absent")
    with pytest.raises(VmmFailure, match="systemd did not make"):
        await scopes.adopt(VmId("i1"), 4711, LIMITS)
