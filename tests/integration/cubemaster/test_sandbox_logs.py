"""What sandboxes said, from the node through CubeMaster to CubeAPI's wire, and to nobody else's team."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from appliance.contracts.node import SandboxLogEntry
from tests.integration.cubemaster.conftest import Appliance

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
T0_MS = int(T0.timestamp() * 1000)


def said(second: int, message: str, level: str = "info") -> SandboxLogEntry:
    return SandboxLogEntry(
        timestamp=T0 + timedelta(seconds=second),
        level=level,
        logger="process",
        message=message,
        fields={"pid": "7", "message": "not the message", "event_type": "stdout"},
    )


@pytest.fixture
async def sandbox_id(appliance: Appliance, api: httpx.AsyncClient) -> str:
    await appliance.template("base")
    created = await api.post("/v2/sandboxes", json={"templateID": "base"})
    assert created.status_code == 201, created.text
    sandbox_id = str(created.json()["sandboxID"])
    appliance.node.said[sandbox_id] = [said(0, "zero", "debug"), said(1, "one"), said(2, "two", "error")]
    return sandbox_id


def messages(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["message"] for entry in answer.json()["logs"]]


async def test_v1_has_lines_that_the_cli_parses(api: httpx.AsyncClient, sandbox_id: str) -> None:
    answer = await api.get(f"/sandboxes/{sandbox_id}/logs", params={"start": T0_MS + 2000, "limit": 1000})
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"logs", "logEntries"}
    (log,) = body["logs"]
    assert datetime.fromisoformat(log["timestamp"]) == T0 + timedelta(seconds=2)
    assert json.loads(log["line"]) == {
        "level": "error",
        "logger": "process",
        "message": "two",
        "timestamp": "2026-01-01T12:00:02Z",
        "pid": "7",
        "event_type": "stdout",
    }
    (entry,) = body["logEntries"]
    assert (entry["level"], entry["message"], entry["fields"]["logger"]) == ("error", "two", "process")


async def test_v2_pages_searches_and_filters(api: httpx.AsyncClient, sandbox_id: str) -> None:
    async def read(**params: Any) -> list[str]:
        return messages(await api.get(f"/v2/sandboxes/{sandbox_id}/logs", params=params))

    assert await read() == ["zero", "one", "two"]
    assert await read(cursor=T0_MS + 1000, limit=1) == ["one"]
    assert await read(direction="backward", limit=2) == ["two", "one"]
    assert await read(direction="backward", cursor=T0_MS + 1000) == ["one", "zero"]
    assert await read(level="warn") == ["two"]
    assert await read(search="o", level="info") == ["one", "two"]


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 1001}, {"direction": "sideways"}, {"level": "loud"}, {"cursor": -1}]
)
async def test_what_makes_no_sense_is_a_400(api: httpx.AsyncClient, sandbox_id: str, params: dict[str, Any]) -> None:
    answer = await api.get(f"/v2/sandboxes/{sandbox_id}/logs", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, 400)


async def test_the_log_outlives_its_sandbox_and_is_nobody_elses(
    api: httpx.AsyncClient, others: dict[str, str], sandbox_id: str
) -> None:
    paths = (f"/sandboxes/{sandbox_id}/logs", f"/v2/sandboxes/{sandbox_id}/logs")
    for path in paths:
        assert (await api.get(path, headers=others)).status_code == 404
    assert (await api.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    for path in paths:
        assert len((await api.get(path)).json()["logs"]) == 3
        assert (await api.get(path, headers=others)).status_code == 404
        assert (await api.get(path.replace(sandbox_id, "i" + "0" * 20))).status_code == 404
