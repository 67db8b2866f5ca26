"""A revoked key is dead within a second on every CubeAPI, however busy it is; and a key in use never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from appliance.contracts.master import NewKey
from appliance.cubeapi.app import create_app
from appliance.cubeapi.settings import CubeApiSettings
from tests.integration.cubemaster.conftest import Appliance
from tests.support.fake_node import serve_on

WORKERS = 3


@pytest.fixture
async def workers(appliance: Appliance, run_dir: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Several CubeAPIs over one CubeMaster, with the settings they are installed with."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(WORKERS):
            app = create_app(CubeApiSettings(master=f"unix://{appliance.settings.socket}"))
            socket = run_dir / f"api-{number}"
            await stack.enter_async_context(serve_on(app, socket))
            transport = httpx.AsyncHTTPTransport(uds=str(socket))
            clients.append(
                await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://api"))
            )
        yield clients


async def test_a_revoked_key_is_dead_within_a_second_on_all_workers(
    appliance: Appliance, workers: list[httpx.AsyncClient]
) -> None:
    key = await appliance.master.create_key(NewKey(name="test"))
    loop = asyncio.get_running_loop()
    revoked_at: list[float] = []
    last_good = dict.fromkeys(range(WORKERS), 0.0)

    async def use(number: int) -> None:
        """Use the key without a pause until it is refused; note when it was taken last."""
        while True:
            asked_at = loop.time()
            response = await workers[number].get("/teams", headers={"X-API-Key": key.key})
            if response.status_code == 401:
                return
            assert response.status_code == 200
            last_good[number] = asked_at

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(use(number))
        await asyncio.sleep(1.3)
        await appliance.master.revoke_key(key.key_id)
        revoked_at.append(loop.time())

    late = {number: at - revoked_at[0] for number, at in last_good.items()}
    assert all(at <= 1.0 for at in late.values()), late
    assert all(at > 0 for at in last_good.values())
