"""The QMP client against a server that speaks as QEMU does, and misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.qemu.qmp import QmpClient, QmpDisconnected, QmpRefused

Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""From a command to the messages sent because of it."""


def succeed(command: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"return": command.get("arguments", {}), "id": command["id"]}]


@asynccontextmanager
async def server(path: Path, answer: Answer) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        try:
            while line := await reader.readline():
                for message in answer(json.loads(line)):
                    if "close" in message:
                        return
                    # In two pieces: a line may arrive in any number of them.
                    data = json.dumps(message).encode() + b"\r\n"
                    writer.write(data[:5])
                    await writer.drain()
                    writer.write(data[5:])
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield


async def with_client(path: Path, answer: Answer, use: Callable[[QmpClient], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(10), server(path, answer):
        client = await QmpClient.connect(path)
        try:
            return await use(client)
        finally:
            client.close()


async def test_command_returns_its_value(tmp_path: Path) -> None:
    result = await with_client(tmp_path / "s", succeed, lambda qmp: qmp.execute("echo", {"value": 1}))
    assert result == {"value": 1}


async def test_refusal_is_an_error_with_the_reason(tmp_path: Path) -> None:
    def refuse(command: dict[str, Any]) -> list[dict[str, Any]]:
        if command["execute"] == "qmp_capabilities":
            return succeed(command)
        return [{"error": {"class": "GenericError", "desc": "no such device"}, "id": command["id"]}]

    with pytest.raises(QmpRefused, match="cont: no such device"):
        await with_client(tmp_path / "s", refuse, lambda qmp: qmp.execute("cont"))


async def test_all_of_several_commands_are_checked(tmp_path: Path) -> None:
    def refuse_second(command: dict[str, Any]) -> list[dict[str, Any]]:
        if command["execute"] == "second":
            return [{"error": {"class": "GenericError", "desc": "no"}, "id": command["id"]}]
        return succeed(command)

    with pytest.raises(QmpRefused, match="second"):
        await with_client(
            tmp_path / "s", refuse_second, lambda qmp: qmp.execute_all([("first", None), ("second", None)])
        )


async def test_event_is_found_before_and_after_it_is_asked_for(tmp_path: Path) -> None:
    def with_events(command: dict[str, Any]) -> list[dict[str, Any]]:
        number = command["id"]
        return [
            {"event": "MIGRATION", "data": {"status": "active", "command": number}},
            *succeed(command),
            {"event": "MIGRATION", "data": {"status": "completed", "command": number}},
        ]

    async def use(qmp: QmpClient) -> dict[str, Any]:
        await qmp.execute("migrate")
        return await qmp.event("MIGRATION", lambda data: data["status"] == "completed" and data["command"] == 2)

    assert await with_client(tmp_path / "s", with_events, use) == {"status": "completed", "command": 2}


async def test_answer_to_a_cancelled_command_is_not_taken_for_anothers(tmp_path: Path) -> None:
    held_back: list[dict[str, Any]] = []

    def answer(command: dict[str, Any]) -> list[dict[str, Any]]:
        if command["execute"] == "slow":
            held_back.extend([{"return": "slow", "id": command["id"]}])
            return []
        return [*held_back, {"return": command["execute"], "id": command["id"]}]

    async def use(qmp: QmpClient) -> Any:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await qmp.execute("slow")
        return await qmp.execute("quick")

    assert await with_client(tmp_path / "s", answer, use) == "quick"


async def test_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async def use(qmp: QmpClient) -> list[Any]:
        return await asyncio.gather(*(qmp.execute("echo", {"value": n}) for n in range(20)))

    assert await with_client(tmp_path / "s", succeed, use) == [{"value": n} for n in range(20)]


async def test_vmm_that_goes_away_is_an_error(tmp_path: Path) -> None:
    def close(command: dict[str, Any]) -> list[dict[str, Any]]:
        return succeed(command) if command["execute"] == "qmp_capabilities" else [{"close": True}]

    with pytest.raises(QmpDisconnected):
        await with_client(tmp_path / "s", close, lambda qmp: qmp.execute("cont"))


async def test_absent_vmm_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VmmFailure, match="no VMM at"):
        await QmpClient.connect(tmp_path / "absent")


async def test_vmm_that_sends_no_end_of_line_is_given_up(tmp_path: Path) -> None:
    def endless(command: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"return": "x" * (2**20 + 70_000), "id": command["id"]}]

    with pytest.raises(VmmFailure, match="line without end"):
        await with_client(tmp_path / "s", endless, lambda qmp: qmp.execute("cont"))
