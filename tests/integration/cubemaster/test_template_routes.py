"""Templates as SDKs and the E2B CLI see them: CubeAPI's wire over a real CubeMaster."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from appliance.contracts.node import BuildState
from appliance.contracts.templates import NewTemplate
from tests.integration.cubemaster.conftest import Appliance, eventually


async def rebuilt(appliance: Appliance, alias: str) -> str:
    """Build a name again and return the id of the new build."""
    build = await appliance.master.create_template(NewTemplate(image="oci:/images/base", alias=alias))

    async def on_node() -> bool:
        return build.build_id in appliance.node.builds

    await eventually(on_node)
    for number in range(3):
        appliance.node.log(build.build_id, f"line {number}")
    appliance.node.finish_build(build.build_id, BuildState.READY)

    async def ready() -> bool:
        return (await appliance.master.get_build(build.build_id)).finished_at is not None

    await eventually(ready)
    return build.build_id


async def status(api: httpx.AsyncClient, template_id: str, build_id: str, **params: Any) -> dict[str, Any]:
    response = await api.get(f"/templates/{template_id}/builds/{build_id}/status", params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_pages_of_templates_meet_without_overlap(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    made = [await appliance.template(name) for name in ("one", "two", "three")]
    first = await api.get("/v2/templates", params={"limit": 2})
    rest = await api.get("/v2/templates", params={"limit": 2, "nextToken": first.headers["X-Next-Token"]})

    assert [one["templateID"] for one in first.json() + rest.json()] == made[::-1]
    assert "X-Next-Token" not in rest.headers
    assert (await api.get("/v2/templates", params={"nextToken": "nonsense"})).status_code == 400
    assert (await api.get("/v2/templates", params={"teamID": "another"})).status_code == 400
    assert (await api.get("/v2/templates", headers=others)).json() == []


async def test_a_template_shows_its_builds_in_pages(appliance: Appliance, api: httpx.AsyncClient) -> None:
    template_id = await appliance.template("base")
    newest = await rebuilt(appliance, "base")

    first = await api.get("/templates/default%2Fbase", params={"limit": 1})
    rest = await api.get(f"/templates/{template_id}", params={"limit": 1, "nextToken": first.headers["X-Next-Token"]})

    assert (first.json()["templateID"], first.json()["buildCount"]) == (template_id, 2)
    (build,) = first.json()["builds"]
    assert (build["buildID"], build["status"], build["diskSizeMB"]) == (newest, "ready", 1500)
    assert datetime.fromisoformat(build["finishedAt"]) >= datetime.fromisoformat(build["createdAt"])
    assert [one["buildID"] != newest for one in rest.json()["builds"]] == [True]
    assert "X-Next-Token" not in rest.headers
    assert (await api.get("/templates/nothing")).status_code == 404
    # The template needs its nulls, a build must not have any.
    assert first.json()["createdBy"] is None
    assert None not in build.values()


async def test_visibility_is_changed_by_the_owner_alone(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    template_id = await appliance.template("base")
    assert (await api.get("/templates/aliases/base", headers=others)).status_code == 404

    published = await api.patch(f"/v2/templates/{template_id}", json={"public": True})
    assert (published.status_code, published.json()) == (200, {"names": ["default/base"]})
    assert (await api.get("/templates/aliases/base", headers=others)).json()["public"] is True
    assert [one["templateID"] for one in (await api.get("/default-templates", headers=others)).json()] == [template_id]
    assert (await api.patch(f"/templates/{template_id}", json={"public": False}, headers=others)).status_code == 403

    closed = await api.patch(f"/templates/{template_id}", json={"public": False})
    assert (closed.status_code, closed.content) == (200, b"")
    assert (await api.get("/default-templates")).json() == []
    assert (await api.patch(f"/templates/{template_id}", json={"public": True}, headers=others)).status_code == 404


async def test_tags_choose_what_is_started(appliance: Appliance, api: httpx.AsyncClient) -> None:
    template_id = await appliance.template("base")
    old = (await appliance.master.get_template("base")).build_id
    stable = await api.post("/templates/tags", json={"target": "base", "tags": ["Stable", "v1"]})
    assert (stable.status_code, stable.json()) == (201, {"tags": ["stable", "v1"], "buildID": old})
    new = await rebuilt(appliance, "base")

    async def started(template: str) -> str:
        made = await api.post("/v2/sandboxes", json={"templateID": template})
        assert made.status_code == 201, made.text
        return (await appliance.master.get_sandbox(made.json()["sandboxID"])).build_id

    assert (await started("base:stable"), await started(f"{template_id}:v1")) == (old, old)
    moved = await api.post("/templates/tags", json={"target": "default/base:default", "tags": ["stable"]})
    assert moved.json()["buildID"] == new
    shown = {one["tag"]: one["buildID"] for one in (await api.get("/templates/base/tags")).json()}
    assert shown == {"default": new, "stable": new, "v1": old}

    gone = await api.request("DELETE", "/templates/tags", json={"name": "base", "tags": ["v1", "never-was"]})
    assert gone.status_code == 204
    assert {one["tag"] for one in (await api.get("/templates/base/tags")).json()} == {"default", "stable"}


@pytest.mark.parametrize(
    ("method", "body", "code", "message"),
    [
        ("POST", {"target": "nothing", "tags": ["v1"]}, 404, "'nothing' not found"),
        ("POST", {"target": "base:v9", "tags": ["v1"]}, 404, "Template 'base' with tag 'v9' not found"),
        ("POST", {"target": "base", "tags": []}, 400, "At least one tag is required"),
        ("POST", {"target": "base", "tags": ["no spaces"]}, 400, "Invalid tag: 'no spaces'"),
        ("POST", {"target": "base", "tags": ["a8098c1a-f86e-11da-bd1a-00112444be1e"]}, 400, "Invalid tag"),
        ("DELETE", {"name": "base", "tags": ["default"]}, 400, "Cannot delete the 'default' tag"),
        ("DELETE", {"name": "base:v1", "tags": ["v1"]}, 400, "use the 'tags' field instead"),
        ("DELETE", {"name": "nothing", "tags": ["v1"]}, 404, "not found"),
    ],
)
async def test_tags_that_cannot_be(
    appliance: Appliance, api: httpx.AsyncClient, method: str, body: dict[str, Any], code: int, message: str
) -> None:
    await appliance.template("base")
    response = await api.request(method, "/templates/tags", json=body)
    assert (response.status_code, response.json()["code"]) == (code, code)
    assert message in response.json()["message"]


async def test_log_offsets_count_exactly_what_a_client_has_seen(appliance: Appliance, api: httpx.AsyncClient) -> None:
    template_id = await appliance.template("base")
    build_id = await rebuilt(appliance, "base")
    seen: list[str] = []
    while entries := (await status(api, template_id, build_id, logsOffset=len(seen), limit=2))["logEntries"]:
        seen += [entry["message"] for entry in entries]

    assert seen == ["building on node cube-1", "line 0", "line 1", "line 2", "the template is ready"]
    info = await status(api, template_id, build_id)
    assert (info["status"], info["templateID"], info["logs"]) == ("ready", template_id, seen)
    assert "reason" not in info
    assert (await status(api, template_id, build_id, level="warn"))["logEntries"] == []


async def test_a_failed_build_gives_its_reason(appliance: Appliance, api: httpx.AsyncClient) -> None:
    build = await appliance.master.create_template(NewTemplate(image="oci:/images/base", alias="bad"))

    async def on_node() -> bool:
        return build.build_id in appliance.node.builds

    await eventually(on_node)
    appliance.node.log(build.build_id, "fetching")
    appliance.node.finish_build(build.build_id, BuildState.ERROR, reason="no such image")

    async def failed() -> bool:
        return bool((await status(api, build.template_id, build.build_id))["status"] == "error")

    await eventually(failed)
    info = await status(api, build.template_id, build.build_id, level="error")
    assert info["reason"]["message"] == "no such image"
    assert [entry["message"] for entry in info["logEntries"]] == ["no such image"]
    # The offset counts entries of that level.
    assert (await status(api, build.template_id, build.build_id, level="error", logsOffset=1))["logEntries"] == []


async def test_build_logs_go_both_ways_from_a_time(appliance: Appliance, api: httpx.AsyncClient) -> None:
    template_id = await appliance.template("base")
    build_id = await rebuilt(appliance, "base")
    path = f"/templates/{template_id}/builds/{build_id}/logs"

    async def messages(**params: Any) -> list[str]:
        response = await api.get(path, params=params)
        assert response.status_code == 200, response.text
        return [entry["message"] for entry in response.json()["logs"]]

    everything = await messages()
    assert len(everything) == 5
    assert await messages(direction="backward") == everything[::-1]
    assert await messages(limit=1, direction="backward") == ["the template is ready"]
    assert await messages(level="error") == []
    build = await appliance.master.get_build(build_id)
    before, after = (int((build.created_at + timedelta(days=days)).timestamp() * 1000) for days in (-1, 1))
    assert await messages(cursor=before) == everything
    assert await messages(cursor=after) == []
    assert await messages(cursor=before, direction="backward") == []
    assert (await api.get(path, params={"cursor": 10**20})).status_code == 400


async def test_builds_of_others_do_not_exist(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    template_id = await appliance.template("base", public=True)
    another = await appliance.template("another")
    build_id = (await appliance.master.get_template("base")).build_id
    for part in ("status", "logs"):
        path = f"/templates/{template_id}/builds/{build_id}/{part}"
        assert (await api.get(path)).status_code == 200
        assert (await api.get(path, headers=others)).status_code == 404
        assert (await api.get(f"/templates/{another}/builds/{build_id}/{part}")).status_code == 404
        assert (await api.get(f"/templates/{template_id}/builds/no-uuid/{part}")).status_code == 400
    assert (await api.get(f"/templates/{template_id}", headers=others)).status_code == 403


async def test_a_used_template_is_not_deleted(appliance: Appliance, api: httpx.AsyncClient) -> None:
    template_id = await appliance.template("base")
    made = (await api.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]

    refused = await api.delete("/templates/base")

    assert refused.status_code == 400
    message = f"cannot delete template '{template_id}' because there are running sandboxes using it"
    assert refused.json() == {"code": 400, "message": message}
    await api.delete(f"/sandboxes/{made}")
    assert (await api.delete("/templates/base")).status_code == 204
    assert (await api.delete("/templates/base")).status_code == 404
