"""The content of volumes, through CubeAPI and CubeMaster to the node, which is a fake behind the real wire."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from fastapi import Response
from fastapi.responses import JSONResponse

from appliance.contracts.master import NewPause
from appliance.contracts.volumes import NewVolume, VolumeAndToken, VolumeMount
from appliance.cubemaster.services import volume_content
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, RunProgram
from tests.integration.cubemaster.conftest import eventually as until
from tests.support.sdk_node import sdk_modules
from tests.support.sdk_venv import sdk_python
from tests.support.waiting import eventually

SIZE = 24 * 2**20

_PYTHON = """
import io, json
from e2b import NotFoundException, Sandbox, Volume
from e2b.exceptions import AuthenticationException, VolumeException

volume = Volume.create("data")
try:
    Volume.create("data")
except VolumeException as error:
    taken = str(error)
assert [one.name for one in Volume.list()] == ["data"]
assert Volume.get_info(volume.volume_id).token == volume.token
made = volume.make_dir("/a/b", force=True, mode=0o700)
written = volume.write_file("/a/b/text", "hello wörld", uid=1000, gid=1000, mode=0o640)
big = bytes(range(256)) * 8 * 4096
volume.write_file("/a/big", io.BytesIO(big))
volume.write_file("/a/empty", b"")
again = Volume.connect(volume.volume_id)
answer = {
    "taken": taken,
    "made": [made.path, made.mode, made.type.value],
    "written": [written.path, written.uid, written.mode, written.size],
    "text": again.read_file("/a/b/text"),
    "whole": again.read_file("/a/big", format="bytes") == big,
    "streamed": b"".join(again.read_file("/a/big", format="stream")) == big,
    "empty": again.read_file("/a/empty", format="bytes") == b"",
    "listed": sorted(one.path for one in again.list("/a")),
    "deep": len(again.list("/a", depth=2)),
    "changed": again.update_metadata("/a/b/text", mode=0o600).mode,
    "exists": [again.exists("/a/b/text"), again.exists("/a/none")],
}
again.remove("/a/b")
answer["removed"] = again.exists("/a/b/text")
for call in (again.read_file, again.list, again.remove):
    try:
        call("/none")
    except NotFoundException:
        continue
    raise AssertionError(call)
try:
    Volume(volume.volume_id, "data", token="f" * 64).read_file("/a/big")
    raise AssertionError("read without the token")
except AuthenticationException as error:
    answer["refused"] = str(error)
with Sandbox.create("base", volume_mounts={"/mnt/data": volume}, timeout=60) as sandbox:
    answer["mounts"] = sandbox.get_info().volume_mounts
    try:
        Volume.destroy(volume.volume_id)
        raise AssertionError("deleted in use")
    except VolumeException as error:
        answer["in_use"] = str(error)
    sandbox.kill()
answer["destroyed"] = [Volume.destroy(volume.volume_id), Volume.destroy(volume.volume_id)]
print(json.dumps(answer))
"""

_JAVASCRIPT = """
import { Sandbox, Volume } from "e2b"

const volume = await Volume.create("data")
await volume.makeDir("/a")
const written = await volume.writeFile("/a/text", "hello", { mode: 0o640 })
const again = await Volume.connect(volume.volumeId)
const answer = {
  written: [written.path, written.mode],
  text: await again.readFile("/a/text"),
  listed: (await again.list("/a")).map((one) => one.path),
  changed: (await again.updateMetadata("/a/text", { mode: 0o600 })).mode,
  exists: [await again.exists("/a/text"), await again.exists("/none")],
  volumes: (await Volume.list()).map((one) => one.name),
}
await again.remove("/a/text")
answer.removed = await again.exists("/a/text")
const sandbox = await Sandbox.create("base", { volumeMounts: { "/mnt/data": volume } })
answer.mounts = (await sandbox.getInfo()).volumeMounts
await sandbox.kill()
answer.destroyed = [await Volume.destroy(volume.volumeId), await Volume.destroy(volume.volumeId)]
console.log(JSON.stringify(answer))
"""


@pytest.fixture
def idle_s() -> float:
    return 30


@pytest.fixture
def settings(settings: CubeMasterSettings, idle_s: float) -> CubeMasterSettings:
    return settings.model_copy(update={"volumes": settings.volumes.model_copy(update={"idle_s": idle_s})})


@pytest.fixture
async def volume(appliance: Appliance) -> VolumeAndToken:
    return await appliance.master.volumes.create(NewVolume(team_id=await appliance.team(), name="data"))


@pytest.fixture
async def content(api_url: str, volume: VolumeAndToken) -> AsyncIterator[httpx.AsyncClient]:
    """The content API of the volume, called with its token."""
    async with httpx.AsyncClient(
        base_url=f"{api_url}/volumecontent/{volume.volume_id}",
        headers={"Authorization": f"Bearer {volume.token}"},
        timeout=60,
    ) as client:
        yield client


@pytest.mark.parametrize("version", ["2.45.1", "2.63.0"])
async def test_the_python_sdk(appliance: Appliance, run_program: RunProgram, tmp_path: Path, version: str) -> None:
    await appliance.template("base")
    program = tmp_path / "program.py"
    program.write_text(_PYTHON)
    python = sys.executable if version == "2.63.0" else await asyncio.to_thread(sdk_python, f"e2b=={version}")
    _check_python(await run_program(python, program, cwd=tmp_path))


def _check_python(answer: dict[str, Any]) -> None:
    assert "Volume with name 'data' already exists" in answer["taken"]
    assert answer["made"] == ["/a/b", 0o700, "directory"]
    assert answer["written"] == ["/a/b/text", 1000, 0o640, len("hello wörld".encode())]
    assert answer["text"] == "hello wörld"
    assert (answer["whole"], answer["streamed"], answer["empty"]) == (True, True, True)
    assert answer["listed"] == ["/a/b", "/a/big", "/a/empty"]
    assert (answer["deep"], answer["changed"]) == (4, 0o600)
    assert (answer["exists"], answer["removed"]) == ([True, False], False)
    assert "token is missing or wrong" in answer["refused"]
    assert answer["mounts"] == [{"name": "data", "path": "/mnt/data"}]
    assert "in use by sandbox" in answer["in_use"]
    assert answer["destroyed"] == [True, False]


@pytest.mark.parametrize("version", ["2.45.0", "2.51.0"])
async def test_the_javascript_sdk(appliance: Appliance, run_program: RunProgram, tmp_path: Path, version: str) -> None:
    await appliance.template("base")
    modules = await asyncio.to_thread(sdk_modules, f"e2b@{version}")
    (tmp_path / "node_modules").symlink_to(modules / "node_modules")
    program = tmp_path / "program.mjs"
    program.write_text(textwrap.dedent(_JAVASCRIPT))
    assert await run_program("node", program, cwd=tmp_path) == {
        "written": ["/a/text", 0o640],
        "text": "hello",
        "listed": ["/a/text"],
        "changed": 0o600,
        "exists": [True, False],
        "volumes": ["data"],
        "removed": False,
        "mounts": [{"name": "data", "path": "/mnt/data"}],
        "destroyed": [True, False],
    }


async def test_large_files_pass_as_they_come(appliance: Appliance, content: httpx.AsyncClient) -> None:
    half = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(SIZE // 2)
        # Only goes on when the first half has got through to the node.
        await half.wait()
        yield bytes(SIZE // 2)

    sending = asyncio.create_task(content.put("/file", params={"path": "/big"}, content=body()))
    await eventually(lambda: appliance.node.volumes.received >= SIZE // 2)
    half.set()
    assert (await sending).status_code == 201

    async with content.stream("GET", "/file", params={"path": "/big"}) as response:
        assert response.headers["content-length"] == str(SIZE)
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert sum([len(piece) async for piece in response.aiter_raw()]) == SIZE


async def test_an_upload_or_download_that_is_given_up_ends_on_the_node(
    appliance: Appliance, content: httpx.AsyncClient
) -> None:
    fake = appliance.node.volumes

    async def body() -> AsyncIterator[bytes]:
        yield bytes(2**20)
        await asyncio.sleep(3600)

    sending = asyncio.create_task(content.put("/file", params={"path": "/part"}, content=body()))
    await eventually(lambda: fake.received >= 2**20)
    sending.cancel()
    await asyncio.wait_for(fake.cut_off.wait(), 30)
    assert (await content.get("/path", params={"path": "/part"})).status_code == 404

    await content.put("/file", params={"path": "/big"}, content=bytes(SIZE))
    fake.cut_off.clear()
    async with content.stream("GET", "/file", params={"path": "/big"}) as response:
        assert response.status_code == 200
    await asyncio.wait_for(fake.cut_off.wait(), 30)


async def test_without_the_token_of_this_volume_nothing_opens(
    appliance: Appliance, content: httpx.AsyncClient, volume: VolumeAndToken, key: str
) -> None:
    other = await appliance.master.volumes.create(NewVolume(team_id=volume.team_id, name="other"))
    path = {"path": "/"}
    wrong = [f"Bearer {other.token}", f"Bearer {key}", "Bearer", "Basic abc", f"Bearer {volume.token}x"]
    for authorization in wrong:
        for call in (
            content.get("/path", params=path, headers={"Authorization": authorization}),
            content.put("/file", params={"path": "/x"}, content=bytes(1000), headers={"Authorization": authorization}),
        ):
            answer = await call
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), authorization
    del content.headers["Authorization"]
    assert (await content.get("/path", params=path)).status_code == 401
    # Not even the operator's or the team's key is one.
    assert (await content.get("/path", params=path, headers={"X-API-Key": key})).status_code == 401
    assert appliance.node.volumes.received == 0


async def test_errors_are_of_the_content_apis_own_form(
    appliance: Appliance, content: httpx.AsyncClient, volume: VolumeAndToken
) -> None:
    async def refusal(method: str, path: str, **options: Any) -> tuple[int, str]:
        answer = await content.request(method, path, **options)
        body = answer.json()
        assert body.keys() == {"code", "message"}, body
        return answer.status_code, body["code"]

    root = {"path": "/"}
    assert await refusal("GET", "/path", params={"path": "/none"}) == (404, "not_found")
    # The guest's own word.
    assert await refusal("POST", "/dir", params=root) == (409, "already_exists")
    assert await refusal("GET", "/path") == (400, "bad_request")
    assert await refusal("GET", "/dir", params={**root, "depth": -1}) == (400, "bad_request")
    assert await refusal("PATCH", "/path", params=root, json={"mode": "x"}) == (400, "bad_request")
    assert await refusal("GET", "/nothing", params=root) == (404, "not_found")
    assert await refusal("POST", "/file", params=root) == (405, "method_not_allowed")
    packed = {"Content-Encoding": "gzip"}
    assert await refusal("PUT", "/file", params=root, content=b"x", headers=packed) == (400, "bad_request")

    await appliance.template("base")
    mount = (VolumeMount(name="data", path="/data"),)
    sandbox = await appliance.sandbox(volume.team_id, volumes=mount)
    assert (await content.get("/path", params=root)).status_code == 200
    await appliance.master.pause_sandbox(sandbox.sandbox_id, NewPause())
    assert await refusal("GET", "/path", params=root) == (409, "conflict")
    await appliance.master.kill_sandbox(sandbox.sandbox_id)
    # Its node lost it; then its team deletes it.
    del appliance.node.volumes.made[volume.volume_id]
    assert await refusal("GET", "/path", params=root) == (404, "not_found")
    await appliance.master.volumes.delete(volume.volume_id)
    assert await refusal("GET", "/path", params=root) == (404, "not_found")


def raises(error: errors.CubeError) -> Response:
    raise error


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (lambda: Response("<html>", media_type="text/html"), 200, None),
        (lambda: Response("<html>", status_code=404), 500, "internal_error"),
        (lambda: JSONResponse({"code": "x"}, status_code=404), 500, "internal_error"),
        (lambda: JSONResponse({"code": "x", "message": "m" * 10**6}, status_code=404), 500, "internal_error"),
        (lambda: JSONResponse({"code": "odd", "message": "m"}, status_code=404), 404, "odd"),
        (lambda: JSONResponse({"code": "odd", "message": "m"}, status_code=299), 500, "internal_error"),
        (lambda: JSONResponse({"code": "odd", "message": "m"}, status_code=599), 500, "internal_error"),
        (lambda: Response(status_code=302, headers={"Location": "http://localhost/health"}), 500, "internal_error"),
        (lambda: raises(errors.Unavailable("the node is full")), 503, "unavailable"),
    ],
)
async def test_a_guest_that_answers_what_it_likes_cannot_break_the_wire(
    appliance: Appliance, content: httpx.AsyncClient, answer: Any, status: int, code: str | None
) -> None:
    appliance.node.volumes.answer = answer
    got = await content.get("/path", params={"path": "/"})
    assert got.status_code == status
    assert got.headers["content-type"] == "application/json"
    assert "location" not in got.headers
    if code is not None:
        assert got.json()["code"] == code


@pytest.mark.parametrize("idle_s", [0.5])
async def test_an_upload_that_stands_still_is_ended(appliance: Appliance, content: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await asyncio.sleep(3600)

    # httpx would not look at an answer before all is sent.
    async with (
        aiohttp.ClientSession(headers=dict(content.headers)) as http,
        http.put(str(content.base_url.join("file")), params={"path": "/x"}, data=body()) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")
    await asyncio.wait_for(appliance.node.volumes.cut_off.wait(), 30)


async def test_calls_of_a_team_at_one_time_are_limited(
    content: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await content.put("/file", params={"path": "/big"}, content=bytes(SIZE))
    monkeypatch.setattr(volume_content, "_AT_ONCE", 1)
    root = {"path": "/"}
    # More than all buffers on the way hold: it goes on as long as it is not read.
    async with content.stream("GET", "/file", params={"path": "/big"}) as response:
        assert response.status_code == 200
        refused = await content.get("/path", params=root)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["Retry-After"] == "1"

    async def answered() -> bool:
        return (await content.get("/path", params=root)).status_code == 200

    await until(answered, within_s=30)


async def test_a_node_that_is_away_is_said_so(appliance: Appliance, content: httpx.AsyncClient) -> None:
    appliance.node.socket = appliance.node.socket.with_name("elsewhere")
    await appliance.beat()
    answer = await content.get("/path", params={"path": "/"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "node 'cube-1' does not answer" in answer.json()["message"]
