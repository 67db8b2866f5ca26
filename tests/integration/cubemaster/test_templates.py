from __future__ import annotations

import pytest

from appliance.contracts.node import BuildState, RegistryLogin
from appliance.contracts.templates import BuildStatus, BuildView, NewTemplate
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _build(appliance: Appliance, **fields: object) -> BuildView:
    build = await appliance.master.create_template(NewTemplate.model_validate({"image": "oci:/images/x"} | fields))

    async def on_node() -> bool:
        return build.build_id in appliance.node.builds

    await eventually(on_node)
    return build


async def _ended(appliance: Appliance, build_id: str) -> BuildView:
    async def over() -> bool:
        status = (await appliance.master.get_build(build_id)).status
        return status in (BuildStatus.READY, BuildStatus.ERROR)

    await eventually(over)
    return await appliance.master.get_build(build_id)


async def test_a_build_goes_to_the_node_as_asked_and_becomes_ready(appliance: Appliance) -> None:
    build = await _build(
        appliance, alias="web:v1", vcpus=3, memory_mib=700, start_cmd="serve", probe_port=80, exposed_ports=[80, 81]
    )
    assert build.status is BuildStatus.BUILDING
    asked = appliance.node.builds[build.build_id]
    assert (asked.vcpus, asked.memory_mib, asked.start_cmd) == (3, 700, "serve")
    assert (asked.probe_port, asked.exposed_ports) == (80, (80, 81))
    assert (await appliance.master.get_template("web")).status is BuildStatus.BUILDING

    appliance.node.finish_build(build.build_id, BuildState.READY)
    await _ended(appliance, build.build_id)

    shown = await appliance.master.get_template("default/web:v1")
    assert (shown.status, shown.nodes, shown.aliases) == (BuildStatus.READY, ("cube-1",), ("web",))
    assert (shown.disk_size_mib, shown.envd_version) == (1500, "0.6.13")


async def test_log_entries_come_once_each_and_in_order(appliance: Appliance) -> None:
    build = await _build(appliance)
    seen: list[str] = []

    async def read() -> bool:
        view = await appliance.master.get_build(build.build_id, log_offset=len(seen))
        seen.extend(entry.message for entry in view.logs)
        return view.status is BuildStatus.READY and not view.logs

    for number in range(20):
        appliance.node.log(build.build_id, f"line {number}")
        await read()
    appliance.node.finish_build(build.build_id, BuildState.READY)
    await eventually(read)

    assert seen == ["building on node cube-1", *(f"line {n}" for n in range(20)), "the template is ready"]


async def test_a_failed_build_says_why_and_cannot_be_started(appliance: Appliance) -> None:
    team_id = await appliance.team()
    build = await _build(appliance, alias="base")
    with pytest.raises(errors.TemplateNotReady, match="'building'"):
        await appliance.sandbox(team_id)
    appliance.node.finish_build(build.build_id, BuildState.ERROR, reason="image rejected (traversal): ../x")

    ended = await _ended(appliance, build.build_id)

    assert (ended.status, ended.reason) == (BuildStatus.ERROR, "image rejected (traversal): ../x")
    with pytest.raises(errors.TemplateNotReady, match="traversal"):
        await appliance.sandbox(team_id)


async def test_a_node_that_forgot_the_build_is_asked_once_more(appliance: Appliance) -> None:
    build = await _build(appliance)
    appliance.node.forget_builds()

    async def asked_again() -> bool:
        return build.build_id in appliance.node.builds

    await eventually(asked_again)
    appliance.node.forget_builds()
    ended = await _ended(appliance, build.build_id)

    assert appliance.node.builds_started == 2
    assert ended.status is BuildStatus.ERROR
    assert "lost the build twice" in (ended.reason or "")


async def test_a_registry_login_reaches_the_node_and_is_forgotten(appliance: Appliance) -> None:
    build = await _build(appliance, registry={"username": "u", "password": "secret"})
    assert appliance.node.builds[build.build_id].registry == RegistryLogin(username="u", password="secret")

    appliance.node.finish_build(build.build_id, BuildState.READY)
    await _ended(appliance, build.build_id)

    rows = appliance.db.execute("SELECT registry_username, registry_password FROM builds", database="cube_master")
    assert rows == [(None, None)]


async def test_building_a_name_again_adds_a_build_and_moves_the_tag(appliance: Appliance) -> None:
    team_id, template_id = await appliance.team(), await appliance.template("base")
    old = await appliance.sandbox(team_id)
    again = await _build(appliance, alias="base")
    assert again.template_id == template_id
    assert (await appliance.master.get_template("base")).build_id == old.build_id

    appliance.node.finish_build(again.build_id, BuildState.READY)
    await _ended(appliance, again.build_id)

    shown = await appliance.master.get_template("base")
    assert (shown.build_id, shown.build_count) == (again.build_id, 2)

    async def starts_from_the_new_one() -> bool:
        made = await appliance.sandbox(team_id)
        await appliance.master.kill_sandbox(made.sandbox_id)
        return made.build_id == again.build_id

    await eventually(starts_from_the_new_one)


async def test_a_used_template_cannot_be_deleted_and_an_unused_one_leaves_the_node(appliance: Appliance) -> None:
    team_id, template_id = await appliance.team(), await appliance.template("base")
    made = await appliance.sandbox(team_id)
    in_use = f"cannot delete template '{template_id}' because there are running sandboxes using it"
    with pytest.raises(errors.TemplateInUse, match=in_use):
        await appliance.master.delete_template("base", team_id=team_id)
    await appliance.master.kill_sandbox(made.sandbox_id)

    await appliance.master.delete_template("base", team_id=team_id)

    with pytest.raises(errors.TemplateNotFound):
        await appliance.master.get_template(template_id)
    # Even a reference that was resolved a moment ago starts nothing any more.
    with pytest.raises(errors.CubeError):
        await appliance.sandbox(team_id)
    assert (await appliance.master.list_templates()) == []

    async def freed() -> bool:
        return appliance.node.builds == {}

    await eventually(freed, within_s=15)


async def test_teams_share_only_public_templates_and_their_own_come_first(appliance: Appliance) -> None:
    mine, theirs = await appliance.team("mine"), await appliance.team("theirs")
    private = await appliance.template("private", team="theirs")
    shared = await appliance.template("base", team="theirs", public=True)

    with pytest.raises(errors.TemplateNotFound):
        await appliance.master.get_template("private", team_id=mine)
    with pytest.raises(errors.TemplateNotFound):
        await appliance.sandbox(mine, template=private)
    assert (await appliance.sandbox(mine)).template_id == shared
    with pytest.raises(errors.Forbidden):
        await appliance.master.delete_template("base", team_id=mine)
    own = await appliance.template("base", team="mine")
    assert (await appliance.master.get_template("base", team_id=mine)).template_id == own
    assert (await appliance.master.get_template("theirs/base", team_id=mine)).template_id == shared
    assert (await appliance.master.get_template("base", team_id=theirs)).template_id == shared


async def test_an_unknown_tag_is_named(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template("base")
    with pytest.raises(errors.NotFound, match="tag 'v9' does not exist for template 'base'"):
        await appliance.sandbox(team_id, template="base:v9")
    with pytest.raises(errors.TemplateNotFound, match=r"template 'nope' not found$"):
        await appliance.sandbox(team_id, template="nope")
