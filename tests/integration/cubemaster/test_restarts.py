"""CubeMaster, its database or its calls end in the middle of things."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.contracts.master import NewKey, SandboxState
from appliance.contracts.node import BuildState, EndReason
from appliance.contracts.templates import BuildStart, BuildStatus, NewBuildStep, NewTemplate, NewTemplateBuild
from appliance.cubemaster.app import Secrets, create_app
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually
from tests.support.fake_node import FakeNode, serve_on
from tests.support.mariadb import MariaDb

SECRETS = Secrets(envd_seed="seed", secrets_key="6" * 64, mysql_password=None, redis_password=None)


async def test_a_build_goes_on_where_it_was_after_a_restart(settings: CubeMasterSettings, run_dir: Path) -> None:
    node = FakeNode(run_dir / "node")
    async with node.serving(), InternalClient(f"unix://{settings.socket}", service="cube-master") as http:
        master = MasterClient(http)
        async with serve_on(create_app(settings, SECRETS), settings.socket):
            await master.heartbeat(node.status())
            build = await master.create_template(NewTemplate(image="oci:/x"))

            async def logged() -> bool:
                return len((await master.get_build(build.build_id)).logs) == 2

            async def on_node() -> bool:
                return build.build_id in node.builds

            await eventually(on_node)
            node.log(build.build_id, "before")
            await eventually(logged)
        node.log(build.build_id, "meanwhile")
        node.finish_build(build.build_id, BuildState.READY)
        async with serve_on(create_app(settings, SECRETS), settings.socket):

            async def ready() -> bool:
                return (await master.get_build(build.build_id)).status is BuildStatus.READY

            await eventually(ready)
            messages = [entry.message for entry in (await master.get_build(build.build_id)).logs]
    assert messages == ["building on node cube-1", "before", "meanwhile", "the template is ready"]
    assert node.builds_started == 1


async def test_what_the_template_builder_was_told_outlives_a_restart(
    settings: CubeMasterSettings, run_dir: Path
) -> None:
    node = FakeNode(run_dir / "node")
    async with node.serving(), InternalClient(f"unix://{settings.socket}", service="cube-master") as http:
        master = MasterClient(http)
        async with serve_on(create_app(settings, SECRETS), settings.socket):
            # No node yet.
            key = await master.resolve_key(await _digest(master))
            build = await master.request_build(NewTemplateBuild(team_id=key.team_id, name="app"))
            template_id = build.template.template_id
            upload = await master.ask_upload(template_id, "ab" * 32, team_id=key.team_id)
            await master.upload(
                template_id,
                "ab" * 32,
                _once(b"files"),
                length=5,
                expires=str(upload.expires),
                signature=upload.signature,
                deadline=timedelta(seconds=10),
            )
            step = NewBuildStep(type="COPY", args=("a", "b"), files_hash="ab" * 32)
            start = BuildStart(team_id=key.team_id, template_id=template_id, image="alpine", steps=(step,))
            await master.start_build(build.build_id, start)
        async with serve_on(create_app(settings, SECRETS), settings.socket):
            await master.heartbeat(node.status())

            async def on_node() -> bool:
                return build.build_id in node.builds

            await eventually(on_node)
            assert (await master.ask_upload(template_id, "ab" * 32, team_id=key.team_id)).present
    (handed,) = node.builds[build.build_id].steps or ()
    assert (handed.type, handed.args, handed.files_hash) == ("COPY", ("a", "b"), "ab" * 32)


async def _digest(master: MasterClient) -> str:
    return hashlib.sha256((await master.create_key(NewKey(name="test"))).key.encode()).hexdigest()


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_a_build_that_was_looked_at_during_the_stop_is_not_left_leased(
    settings: CubeMasterSettings, run_dir: Path
) -> None:
    node = FakeNode(run_dir / "node")
    async with node.serving(), InternalClient(f"unix://{settings.socket}", service="cube-master") as http:
        master = MasterClient(http)
        async with serve_on(create_app(settings, SECRETS), settings.socket):
            await master.heartbeat(node.status())
            build = await master.create_template(NewTemplate(image="oci:/x"))

            async def on_node() -> bool:
                return build.build_id in node.builds

            await eventually(on_node)
            node.stall_progress = asyncio.Event()

            async def looked_at() -> bool:
                return node.stalled > 0

            await eventually(looked_at)
        node.stall_progress.set()
        node.finish_build(build.build_id, BuildState.READY)
        async with serve_on(create_app(settings, SECRETS), settings.socket):

            async def ready() -> bool:
                return (await master.get_build(build.build_id)).status is BuildStatus.READY

            # A lease that was kept would hold it for a minute.
            await eventually(ready)


async def test_a_create_that_nobody_waits_for_is_undone(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    # As if CubeMaster had died after the node had started it, a while ago.
    appliance.db.execute(
        "UPDATE sandboxes SET state = 'creating', started_at = started_at - INTERVAL 1 HOUR", database="cube_master"
    )

    async def undone() -> bool:
        return (await appliance.master.get_sandbox(made.sandbox_id, ended=True)).state is SandboxState.ENDED

    await eventually(undone, within_s=20)
    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert ended.end_reason is EndReason.FAILED_START
    assert appliance.node.sandboxes == {}
    assert await appliance.reserved() == (0, 0)


async def test_a_kill_while_it_is_created_wins(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.stall_create = asyncio.Event()
    creating = asyncio.create_task(appliance.sandbox(team_id))

    async def on_node() -> bool:
        return bool(appliance.node.sandboxes)

    await eventually(on_node)
    (sandbox_id,) = appliance.node.sandboxes
    await appliance.master.kill_sandbox(sandbox_id)
    appliance.node.stall_create.set()

    with pytest.raises(errors.SandboxTransitioning):
        await creating
    assert appliance.node.sandboxes == {}
    assert await appliance.reserved() == (0, 0)
    with appliance.redis.client() as redis:
        assert redis.keys("cube:route:*") == []


@pytest.mark.parametrize("lost_after_s", [3])
async def test_an_outage_of_the_database_costs_nothing_but_errors_meanwhile(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    appliance.db.stop()
    try:
        with pytest.raises(errors.Unavailable, match="mariadb"):
            await appliance.sandbox(team_id)
        with pytest.raises(errors.Unavailable):
            await appliance.beat()
        # Longer than a node may be silent: it was not the node that was silent.
        await asyncio.sleep(3.5)
    finally:
        appliance.db.start()

    async def back() -> bool:
        try:
            await appliance.beat()
        except errors.Unavailable:
            return False
        return True

    await eventually(back)
    assert (await appliance.master.get_sandbox(made.sandbox_id)).state is SandboxState.RUNNING
    assert set(appliance.node.sandboxes) == {made.sandbox_id}
    await appliance.master.kill_sandbox(made.sandbox_id)
    assert await appliance.reserved() == (0, 0)


async def test_connections_that_the_database_closed_are_replaced_unnoticed(appliance: Appliance, db: MariaDb) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    mine = db.execute("SELECT id FROM information_schema.processlist WHERE db = 'cube_master'")
    db.execute(*(f"KILL {row[0]}" for row in mine))
    assert (await appliance.sandbox(team_id)).state is SandboxState.RUNNING
