"""The template builder's calls, one by one: CubeAPI's wire over a real CubeMaster, with a node that builds nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from appliance.contracts.node import BuildState, RegistryLogin
from appliance.contracts.teams import TeamLimits
from tests.integration.cubemaster.conftest import MAX_DRAFTS, Appliance, eventually

HASH = "ab" * 32
NEW = {"name": "app", "cpuCount": 1, "memoryMB": 256}


async def request(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Ask for a build and return the answer."""
    response = await api.post("/v3/templates", json={**NEW, **fields})
    assert response.status_code == 202, response.text
    return dict(response.json())


async def start(api: httpx.AsyncClient, build: dict[str, Any], **body: Any) -> httpx.Response:
    return await api.post(f"/v2/templates/{build['templateID']}/builds/{build['buildID']}", json=body)


async def status(api: httpx.AsyncClient, build: dict[str, Any], **params: Any) -> dict[str, Any]:
    response = await api.get(f"/templates/{build['templateID']}/builds/{build['buildID']}/status", params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def handed_out(appliance: Appliance, build: dict[str, Any]) -> None:
    async def there() -> bool:
        return build["buildID"] in appliance.node.builds

    await eventually(there)


async def ended(api: httpx.AsyncClient, build: dict[str, Any]) -> dict[str, Any]:
    async def over() -> bool:
        return (await status(api, build))["status"] in ("ready", "error")

    await eventually(over)
    return await status(api, build)


async def test_a_build_goes_to_the_node_as_it_was_put_together(appliance: Appliance, api: httpx.AsyncClient) -> None:
    build = await request(api, name="App:v1", tags=["stable"], minFreeDiskMb=100)
    template_id = build["templateID"]
    assert build == {
        "templateID": template_id,
        "buildID": build["buildID"],
        "public": False,
        "names": ["default/app"],
        "tags": ["v1", "stable"],
        "aliases": ["app"],
    }
    assert (await status(api, build))["status"] == "waiting"
    steps = [
        {"type": "RUN", "args": ["echo hello", "root"], "force": True},
        {"type": "ENV", "args": ["KEY", "value", "OTHER", ""], "force": False},
        {"type": "WORKDIR", "args": ["/app"]},
        {"type": "USER", "args": ["app"], "unknown": "field"},
    ]

    started = await start(api, build, fromImage="python:3", steps=steps, startCmd="serve", readyCmd="ready", force=True)

    assert (started.status_code, started.content) == (202, b"")
    assert (await status(api, build))["status"] == "building"
    await handed_out(appliance, build)
    got = appliance.node.builds[build["buildID"]]
    assert (got.template_id, got.image, got.from_build, got.force) == (template_id, "python:3", None, True)
    assert (got.vcpus, got.memory_mib, got.writable_layer_mib) == (1, 256, 4196)
    assert (got.start_cmd, got.ready_cmd) == ("serve", "ready")
    assert got.steps is not None
    assert [(one.type, one.args, one.force) for one in got.steps] == [
        ("RUN", ("echo hello", "root"), True),
        ("ENV", ("KEY", "value", "OTHER", ""), False),
        ("WORKDIR", ("/app",), False),
        ("USER", ("app",), False),
    ]
    appliance.node.finish_build(build["buildID"], BuildState.READY)
    assert (await ended(api, build))["status"] == "ready"
    tags = {one["tag"]: one["buildID"] for one in (await api.get("/templates/app/tags")).json()}
    assert tags == {"stable": build["buildID"], "v1": build["buildID"]}


async def test_a_draft_is_no_nodes_business_and_is_started_once(appliance: Appliance, api: httpx.AsyncClient) -> None:
    draft = await request(api)
    build = await request(api, name="other")
    assert (await start(api, build, fromImage="alpine")).status_code == 202
    await handed_out(appliance, build)

    again = await start(api, build, fromImage="alpine")

    assert (again.status_code, again.json()) == (400, {"code": 400, "message": "build is not in waiting state"})
    assert draft["buildID"] not in appliance.node.builds
    shown = (await api.get("/templates/app")).json()
    assert (shown["buildStatus"], shown["builds"][0]["status"]) == ("waiting", "waiting")


async def test_a_rebuild_moves_its_tags_once_it_is_ready(appliance: Appliance, api: httpx.AsyncClient) -> None:
    first = await request(api, tags=["v1"])
    second = await request(api, name="default/APP", tags=["v1", "v2"])
    assert second["templateID"] == first["templateID"]
    for build in (first, second):
        await start(api, build, fromImage="alpine")
        await handed_out(appliance, build)

    async def tags() -> dict[str, str]:
        return {one["tag"]: one["buildID"] for one in (await api.get("/templates/app/tags")).json()}

    appliance.node.finish_build(first["buildID"], BuildState.READY)
    await ended(api, first)
    assert await tags() == {"v1": first["buildID"]}
    appliance.node.finish_build(second["buildID"], BuildState.READY)
    await ended(api, second)
    assert await tags() == {"v1": second["buildID"], "v2": second["buildID"]}
    by_id = await request(api, name=first["templateID"])
    assert by_id["templateID"] == first["templateID"]


async def test_a_failed_step_is_named_with_what_it_said(appliance: Appliance, api: httpx.AsyncClient) -> None:
    build = await request(api)
    await start(api, build, fromImage="alpine", steps=[{"type": "RUN", "args": ["exit 3"]}])
    await handed_out(appliance, build)
    appliance.node.log(build["buildID"], "before it")
    appliance.node.log(build["buildID"], "no such thing", step="1")
    appliance.node.finish_build(build["buildID"], BuildState.ERROR, reason="exit status 3", step="1")

    info = await ended(api, build)

    assert (info["reason"]["message"], info["reason"]["step"]) == ("exit status 3", "1")
    assert [one["message"] for one in info["reason"]["logEntries"]] == ["no such thing", "exit status 3"]
    assert (await status(api, build, logsOffset=len(info["logEntries"])))["logEntries"] == []
    # A build that failed takes no tag.
    assert (await api.get("/templates/app/tags")).json() == []


@pytest.mark.parametrize("image", ["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base"])
async def test_e2bs_base_image_is_our_base_template(appliance: Appliance, api: httpx.AsyncClient, image: str) -> None:
    await appliance.template("base", public=True)
    base = (await appliance.master.get_template("base")).build_id
    build = await request(api)

    assert (await start(api, build, fromImage=image)).status_code == 202

    await handed_out(appliance, build)
    got = appliance.node.builds[build["buildID"]]
    assert (got.image, got.from_build, got.steps) == (None, base, ())


async def test_a_template_is_built_from_another(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    await appliance.template("private")
    public_id = await appliance.template("open", public=True)
    mine = await request(api)
    theirs = (await api.post("/v3/templates", json=NEW, headers=others)).json()
    path = f"/v2/templates/{theirs['templateID']}/builds/{theirs['buildID']}"

    for reference in ("private", "default/private", "nothing", "mcp-gateway", "open:v9"):
        refused = await api.post(path, json={"fromTemplate": reference}, headers=others)
        assert (refused.status_code, "not found" in refused.text or "not exist" in refused.text) == (404, True)
    # Somebody else's draft is none.
    assert (await api.post(path, json={"fromTemplate": "open"})).status_code == 404
    assert (await api.post(path, json={"fromTemplate": "open"}, headers=others)).status_code == 202
    assert (await start(api, mine, fromTemplate="private")).status_code == 202
    await handed_out(appliance, theirs)
    assert appliance.node.builds[theirs["buildID"]].template_id == theirs["templateID"]
    base = (await appliance.master.get_template(public_id)).build_id
    assert appliance.node.builds[theirs["buildID"]].from_build == base


async def test_a_template_that_is_not_ready_is_no_base(appliance: Appliance, api: httpx.AsyncClient) -> None:
    base = await request(api, name="base-to-be")
    await start(api, base, fromImage="alpine")
    refused = await start(api, await request(api), fromTemplate="base-to-be")
    assert (refused.status_code, "cannot start from it yet" in refused.text) == (404, True)


async def test_a_bases_disk_is_kept(appliance: Appliance, api: httpx.AsyncClient) -> None:
    await appliance.template("base")
    base = (await appliance.master.get_template("base")).build_id
    build = await request(api)
    await start(api, build, fromTemplate="base", startCmd="serve")
    await handed_out(appliance, build)
    got = appliance.node.builds[build["buildID"]]
    assert (got.from_build, got.writable_layer_mib) == (base, 1024)
    assert (got.start_cmd, got.ready_cmd, got.probe_port) == ("serve", None, None)


async def test_the_disk_of_a_base_grows_by_what_is_asked_for(appliance: Appliance, api: httpx.AsyncClient) -> None:
    await appliance.template("base")
    before = 1024
    for name, base, asked in (("roomy", "base", 200), ("roomier", "roomy", 100), ("as-it-is", "roomier", None)):
        build = await request(api, name=name, minFreeDiskMb=asked)
        assert (await start(api, build, fromTemplate=base)).status_code == 202
        await handed_out(appliance, build)
        before += asked or 0
        assert appliance.node.builds[build["buildID"]].writable_layer_mib == before
        appliance.node.finish_build(build["buildID"], BuildState.READY)
        await ended(api, build)


async def test_disks_of_templates_upon_templates_do_not_grow_for_ever(
    appliance: Appliance, api: httpx.AsyncClient
) -> None:
    most = 4096 + 20480
    large = await request(api, name="large", minFreeDiskMb=20470)
    await start(api, large, fromImage="alpine")
    await handed_out(appliance, large)
    appliance.node.finish_build(large["buildID"], BuildState.READY)
    await ended(api, large)
    refused = await start(api, await request(api, name="more", minFreeDiskMb=11), fromTemplate="large")
    assert refused.status_code == 400
    assert refused.json()["message"].endswith(f"has {most - 10} MiB and may have {most} at most; ask for 10 or less")
    all_of_it = await request(api, name="more", minFreeDiskMb=10)
    assert (await start(api, all_of_it, fromTemplate="large")).status_code == 202


async def test_a_build_whose_base_goes_before_it_began_fails(appliance: Appliance, api: httpx.AsyncClient) -> None:
    base_id = await appliance.template("base")
    appliance.node.ready = False
    await appliance.beat()
    build = await request(api)
    assert (await start(api, build, fromTemplate="base")).status_code == 202
    assert (await api.delete(f"/templates/{base_id}")).status_code == 204

    info = await ended(api, build)

    assert (info["status"], info["reason"]["step"]) == ("error", "base")
    assert "deleted" in info["reason"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "one of fromImage and fromTemplate"),
        ({"fromImage": "", "fromTemplate": ""}, "one of fromImage and fromTemplate"),
        ({"fromImage": "alpine", "fromTemplate": "base"}, "one of fromImage and fromTemplate"),
        ({"fromImage": "oci:/etc"}, "'oci:' is for operators"),
        ({"fromImage": "docker-archive:/var/lib/x.tar"}, "'docker-archive:' is for operators"),
        ({"fromImage": "/etc/passwd"}, "not an image reference"),
        ({"fromImage": "dir:/etc"}, "not an image reference"),
        ({"fromImage": "--help"}, "not an image reference"),
        ({"fromImage": "127.0.0.1:5000/x"}, "not a public address"),
        ({"fromImage": "docker://localhost/x"}, "not a public address"),
        ({"fromImage": "169.254.169.254/latest"}, "not a public address"),
        ({"fromImage": "registry.internal/x"}, "not a public address"),
        ({"fromImage": "alpine", "steps": [{"type": "EXPOSE", "args": ["80"]}]}, "step 1 (EXPOSE)"),
        ({"fromImage": "alpine", "steps": [{"type": "RUN", "args": ["a"]}, {"type": "RUN"}]}, "step 2 (RUN)"),
        ({"fromImage": "alpine", "steps": [{"type": "COPY", "args": ["a", "b"]}]}, "step 1 (COPY) must have"),
        (
            {"fromImage": "alpine", "steps": [{"type": "COPY", "args": ["a", "b"], "filesHash": HASH}]},
            "step 1 (COPY): its files were not uploaded",
        ),
        (
            {
                "fromImage": "x.com/y",
                "fromImageRegistry": {
                    "type": "aws",
                    "awsAccessKeyId": "a",
                    "awsSecretAccessKey": "b",
                    "awsRegion": "c",
                },
            },
            "awsRegion: 'c' is no region of AWS",
        ),
        (
            {"fromImage": "gcr.io/y", "fromImageRegistry": {"type": "gcp", "serviceAccountJson": "{}"}},
            "service account",
        ),
        ({"fromImage": "x.com/y", "fromImageRegistry": {"type": "other"}}, "fromImageRegistry"),
        (
            {"fromTemplate": "base", "fromImageRegistry": {"type": "registry", "username": "a", "password": "b"}},
            "leave it out",
        ),
    ],
)
async def test_what_cannot_be_built_says_why(
    appliance: Appliance, api: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    build = await request(api)
    refused = await start(api, build, **body)
    assert (refused.status_code, refused.json()["code"]) == (400, 400)
    assert message in refused.json()["message"]
    # It is a draft still, and may be started with what can be built.
    assert (await start(api, build, fromImage="alpine")).status_code == 202


@pytest.mark.parametrize(
    ("registry", "login"),
    [
        ({"type": "registry", "username": "me", "password": "s3cret"}, RegistryLogin(username="me", password="s3cret")),
        (
            {"type": "gcp", "serviceAccountJson": '{"private_key": "s3cret"}'},
            RegistryLogin(username="_json_key", password='{"private_key": "s3cret"}'),
        ),
        (
            {
                "type": "aws",
                "awsAccessKeyId": "AKIDEXAMPLE01234",
                "awsSecretAccessKey": "s3cret",
                "awsRegion": "eu-west-1",
            },
            RegistryLogin(username="AKIDEXAMPLE01234", password="s3cret", aws_region="eu-west-1"),
        ),
    ],
)
async def test_a_registrys_login_goes_to_the_node_and_is_kept_nowhere(
    appliance: Appliance, api: httpx.AsyncClient, registry: dict[str, str], login: RegistryLogin
) -> None:
    build = await request(api)
    steps = [{"type": "ENV", "args": ["TOKEN", "s3cret"]}]
    await start(api, build, fromImage="gcr.io/me/app", fromImageRegistry=registry, steps=steps)
    await handed_out(appliance, build)
    assert appliance.node.builds[build["buildID"]].registry == login
    appliance.node.finish_build(build["buildID"], BuildState.READY)
    assert "s3cret" not in str(await ended(api, build))
    query = "SELECT registry_username, registry_password, registry_aws_region, steps FROM builds"
    rows = list(appliance.db.execute(query, database="cube_master"))
    assert {row[:3] for row in rows} == {(None, None, None)}
    assert "s3cret" not in str(rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "Name is required"),
        ({"name": None}, "Name is required"),
        ({"name": "a", "alias": "b"}, "give one"),
        ({"name": "no spaces"}, "Invalid name"),
        ({"name": "other/app"}, "Invalid name"),
        ({"name": "app:"}, "Invalid name"),
        ({"tags": ["no spaces"]}, "Invalid tag"),
        ({"teamID": "another"}, "Team ID param mismatch"),
        ({"cpuCount": 0}, "cpuCount must be between 1 and 8"),
        ({"cpuCount": 9}, "cpuCount must be between 1 and 8"),
        ({"memoryMB": 127}, "memoryMB must be between 128 and 8192"),
        ({"memoryMB": 10**9}, "memoryMB must be between"),
        ({"minFreeDiskMb": -1}, "minFreeDiskMb must be between 0"),
        ({"minFreeDiskMb": 10**7}, "minFreeDiskMb must be between 0"),
    ],
)
async def test_builds_that_cannot_be_asked_for(api: httpx.AsyncClient, fields: dict[str, Any], message: str) -> None:
    refused = await api.post("/v3/templates", json={**NEW, **fields})
    assert refused.status_code == 400
    assert message in refused.json()["message"]
    assert (await api.get("/templates")).json() == []


async def test_older_generations(api: httpx.AsyncClient) -> None:
    older = await api.post("/v2/templates", json={"alias": "app", "cpuCount": 1, "memoryMB": 256})
    assert older.status_code == 202
    again = await api.post("/v2/templates", json={"alias": "app"})
    assert again.json()["templateID"] == older.json()["templateID"]
    assert again.json()["buildID"] != older.json()["buildID"]
    assert (again.json()["aliases"], again.json()["buildStatus"]) == (["app"], "waiting")
    by_alias = (await api.post("/v3/templates", json={"alias": "app"})).json()
    assert by_alias["templateID"] == older.json()["templateID"]
    bearer = {"Authorization": "Bearer sk_e2b_" + "0" * 40}
    for path in ("/templates", "/templates/app", "/templates/app/builds/some"):
        refused = await api.post(path, json={"dockerfile": "FROM x"}, headers=bearer)
        assert (refused.status_code, "Template.build" in refused.json()["message"]) == (400, True)


async def test_a_draft_that_nobody_starts_ends(appliance: Appliance, api: httpx.AsyncClient) -> None:
    draft, other = await request(api), await request(api, name="other")
    old = "UPDATE builds SET created_at = created_at - INTERVAL 2 HOUR WHERE build_id = "
    appliance.db.execute(f"{old}'{draft['buildID']}'", database="cube_master")

    info = await ended(api, draft)

    assert (info["status"], "never started" in info["reason"]["message"]) == ("error", True)
    assert (await start(api, draft, fromImage="alpine")).json()["message"] == "build is not in waiting state"
    assert (await status(api, other))["status"] == "waiting"


async def test_drafts_are_limited_until_they_are_started_or_given_up(
    appliance: Appliance, api: httpx.AsyncClient
) -> None:
    drafts = [await request(api, name=f"name{number}") for number in range(MAX_DRAFTS)]

    async def is_refused() -> bool:
        answer = await api.post("/v3/templates", json=NEW)
        assert answer.status_code in (202, 429), answer.text
        return answer.status_code == 429

    refused = await api.post("/v3/templates", json=NEW)
    assert (refused.status_code, "not started" in refused.json()["message"]) == (429, True)
    assert (await api.get("/templates/app")).status_code == 404  # nothing of it is left
    assert (await start(api, drafts[0], fromImage="alpine")).status_code == 202
    assert not await is_refused()
    assert await is_refused()
    old = "UPDATE builds SET created_at = created_at - INTERVAL 2 HOUR WHERE build_id = "
    appliance.db.execute(f"{old}'{drafts[1]['buildID']}'", database="cube_master")
    await ended(api, drafts[1])
    assert not await is_refused()


async def test_builds_under_way_are_limited(appliance: Appliance, api: httpx.AsyncClient) -> None:
    builds = [await request(api, name=name) for name in ("one", "two", "three")]
    await appliance.master.teams.set_limits("default", TeamLimits(builds=1))
    assert (await start(api, builds[0], fromImage="alpine")).status_code == 202

    refused = await start(api, builds[1], fromImage="alpine")

    assert (refused.status_code, "1 template builds" in refused.json()["message"]) == (429, True)
    await handed_out(appliance, builds[0])
    appliance.node.finish_build(builds[0]["buildID"], BuildState.READY)
    await ended(api, builds[0])
    assert (await start(api, builds[1], fromImage="alpine")).status_code == 202


async def test_deleting_a_template_ends_its_draft(appliance: Appliance, api: httpx.AsyncClient) -> None:
    draft = await request(api)
    assert (await api.delete("/templates/app")).status_code == 204
    assert (await start(api, draft, fromImage="alpine")).status_code == 404
    assert (await request(api))["templateID"] != draft["templateID"]
