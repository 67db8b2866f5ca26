"""Snapshots: kept of running sandboxes, started like templates, deleted like templates."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from appliance.contracts.master import NewPause, NewSnapshot, SandboxState, SandboxView
from appliance.contracts.templates import NewTemplate
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _running(appliance: Appliance, **fields: object) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    return await appliance.sandbox(team_id, **fields)


async def _freed(appliance: Appliance, build_id: str) -> None:
    async def freed() -> bool:
        await appliance.beat()
        return build_id not in appliance.node.builds

    await eventually(freed, within_s=20)


async def test_a_snapshot_is_started_as_often_as_wanted_and_the_source_runs_on(appliance: Appliance) -> None:
    source = await _running(appliance)

    taken = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(team_id=source.team_id))

    assert taken.snapshot_id == f"{taken.template_id}:default"
    assert taken.names == ()
    assert (await appliance.master.get_sandbox(source.sandbox_id)).state is SandboxState.RUNNING
    made = [await appliance.sandbox(source.team_id, template=taken.snapshot_id) for _ in range(2)]
    assert {(one.template_id, one.build_id) for one in made} == {(taken.template_id, taken.build_id)}
    assert {one.node_id for one in made} == {source.node_id}
    assert await appliance.reserved() == (3, 1536)
    # Heartbeats report it as a build of the node like any other.
    await appliance.beat()
    assert taken.build_id in appliance.node.builds


async def test_a_named_one_is_known_by_its_name(appliance: Appliance) -> None:
    source = await _running(appliance)
    taken = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm", memory=False))

    assert (taken.snapshot_id, taken.names) == ("default/warm:default", ("default/warm",))
    assert not appliance.node.snapshots[taken.build_id].memory
    for reference in ("warm", "default/warm:default"):
        assert (await appliance.sandbox(source.team_id, template=reference)).build_id == taken.build_id


async def test_snapshots_are_listed_by_source_and_name_and_never_as_templates(appliance: Appliance) -> None:
    first = await _running(appliance)
    second = await appliance.sandbox(first.team_id)
    other_team = await appliance.team("other")
    of_first = await appliance.master.take_snapshot(first.sandbox_id, NewSnapshot(name="one"))
    of_second = [await appliance.master.take_snapshot(second.sandbox_id, NewSnapshot()) for _ in range(2)]

    everything = [of_second[1], of_second[0], of_first]
    page = await appliance.master.list_snapshots(team_id=first.team_id, limit=2)
    rest = await appliance.master.list_snapshots(team_id=first.team_id, limit=2, cursor=page.next_cursor)
    assert [*page.snapshots, *rest.snapshots] == everything
    assert rest.next_cursor is None
    by_source = await appliance.master.list_snapshots(sandbox_id=first.sandbox_id)
    assert by_source.snapshots == (of_first,)
    assert (await appliance.master.list_snapshots(name="default/one")).snapshots == (of_first,)
    assert (await appliance.master.list_snapshots(name="unknown")).snapshots == ()
    assert (await appliance.master.list_snapshots(team_id=other_team)).snapshots == ()
    assert [one.aliases for one in await appliance.master.list_templates()] == [("base",)]
    assert len((await appliance.master.page_templates(team_id=first.team_id)).templates) == 1
    with pytest.raises(errors.TemplateNotFound):
        await appliance.sandbox(other_team, template=of_first.snapshot_id)


async def test_deleting_one_frees_it_on_the_node_once_nothing_uses_it(appliance: Appliance) -> None:
    source = await _running(appliance)
    taken = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot())
    made = await appliance.sandbox(source.team_id, template=taken.snapshot_id)
    with pytest.raises(errors.TemplateInUse, match="running sandboxes"):
        await appliance.master.delete_template(taken.snapshot_id, team_id=source.team_id)
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    with pytest.raises(errors.TemplateInUse, match="paused sandboxes"):
        await appliance.master.delete_template(taken.snapshot_id, team_id=source.team_id)
    await appliance.master.kill_sandbox(made.sandbox_id)

    await appliance.master.delete_template(taken.snapshot_id, team_id=source.team_id)

    with pytest.raises(errors.TemplateNotFound):
        await appliance.master.delete_template(taken.snapshot_id, team_id=source.team_id)
    with pytest.raises(errors.TemplateNotFound):
        await appliance.sandbox(source.team_id, template=taken.snapshot_id)
    assert (await appliance.master.list_snapshots()).snapshots == ()
    await _freed(appliance, taken.build_id)


async def test_a_name_may_have_several_and_the_newer_one_of_a_tag_takes_its_place(appliance: Appliance) -> None:
    source = await _running(appliance)
    old = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm:v1"))
    new = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm:v1"))
    other = await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm:v2"))
    assert {old.template_id, new.template_id} == {other.template_id}
    await _freed(appliance, old.build_id)
    assert (await appliance.sandbox(source.team_id, template="warm:v1")).build_id == new.build_id

    with pytest.raises(errors.TemplateNotFound):
        await appliance.master.delete_template("default/warm:v3")
    await appliance.master.delete_template(other.snapshot_id)

    await _freed(appliance, other.build_id)
    assert [one.snapshot_id for one in (await appliance.master.list_snapshots()).snapshots] == ["default/warm:v1"]
    assert new.build_id in appliance.node.builds


async def test_names_of_templates_and_snapshots_are_kept_apart(appliance: Appliance, api: httpx.AsyncClient) -> None:
    source = await _running(appliance)
    with pytest.raises(errors.Conflict, match="name of a template"):
        await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="base"))
    with pytest.raises(errors.Conflict, match="names team 'other'"):
        await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="other/warm"))
    assert (await appliance.master.get_sandbox(source.sandbox_id)).state is SandboxState.RUNNING
    await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm"))
    with pytest.raises(errors.Conflict, match="name of a snapshot"):
        await appliance.master.create_template(NewTemplate(image="oci:/x", alias="warm"))
    refused = await api.post("/v3/templates", json={"name": "warm"})
    assert (refused.status_code, "name of a snapshot" in refused.json()["message"]) == (409, True)


async def test_what_is_paused_is_not_snapshotted_and_what_fails_leaves_nothing(appliance: Appliance) -> None:
    source = await _running(appliance)
    appliance.node.fail_snapshot = errors.DiskFull("no room")
    with pytest.raises(errors.DiskFull, match="no room"):
        await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm"))
    assert (await appliance.master.get_sandbox(source.sandbox_id)).state is SandboxState.RUNNING
    assert (await appliance.master.list_snapshots()).snapshots == ()
    appliance.node.fail_snapshot = None
    assert (await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm"))).names
    await appliance.master.pause_sandbox(source.sandbox_id, NewPause())
    with pytest.raises(errors.Conflict, match="cannot be snapshotted while in 'paused' state"):
        await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot())


@pytest.mark.parametrize("create_deadline_s", [0.5])
async def test_one_whose_answer_never_came_is_freed_on_the_node(appliance: Appliance) -> None:
    source = await _running(appliance)
    appliance.node.stall = asyncio.Event()
    with pytest.raises(errors.DeadlineExceeded):
        await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm"))
    appliance.node.stall.set()
    appliance.node.stall = None
    (build_id,) = appliance.node.snapshots
    appliance.db.execute(
        "UPDATE builds SET created_at = created_at - INTERVAL 1 HOUR",
        "UPDATE sandboxes SET changing_since = changing_since - INTERVAL 1 HOUR",
        database="cube_master",
    )

    await _freed(appliance, build_id)

    async def runs() -> bool:
        return (await appliance.master.get_sandbox(source.sandbox_id)).state is SandboxState.RUNNING

    await eventually(runs, within_s=20)
    assert (await appliance.master.take_snapshot(source.sandbox_id, NewSnapshot(name="warm"))).names
