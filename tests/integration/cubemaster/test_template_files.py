"""Uploads of COPY steps: through CubeAPI over real HTTP, to CubeMaster's disk, and on to nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from appliance.contracts.node import BuildState
from tests.integration.cubemaster.conftest import Appliance, eventually
from tests.integration.cubemaster.test_template_builds import ended, handed_out, request, start

HASH, OTHER = "ab" * 32, "cd" * 32
MIB = 2**20


@pytest.fixture
async def web(api_url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api_url, headers={"X-API-Key": key}, timeout=30) as http:
        yield http


async def ask(web: httpx.AsyncClient, build: dict[str, Any], name: str = HASH, **headers: str) -> dict[str, Any]:
    response = await web.get(f"/templates/{build['templateID']}/files/{name}", headers=headers)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def put(url: str, content: bytes) -> httpx.Response:
    # Without a key, as SDKs do it.
    async with httpx.AsyncClient(timeout=30) as stranger:
        return await stranger.put(url, content=content)


def stored(appliance: Appliance) -> list[Path]:
    return [path for path in (appliance.settings.data_dir / "template-files").rglob("*") if path.is_file()]


async def fetched(appliance: Appliance, template_id: str, name: str = HASH) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(appliance.settings.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://master") as http:
        return await http.get(f"/v1/template-files/{template_id}/{name}")


async def test_a_file_goes_up_once_and_down_to_the_node(appliance: Appliance, web: httpx.AsyncClient) -> None:
    build = await request(web)
    content = bytes(range(256)) * (5 * MIB // 256) + b"odd"
    asked = await ask(web, build)
    assert asked["present"] is False
    assert (await fetched(appliance, build["templateID"])).status_code == 404

    assert (await put(asked["url"], content)).status_code == 200

    again = await ask(web, build)
    assert (again["present"], bool(again["url"])) == (True, True)
    got = await fetched(appliance, build["templateID"])
    assert (got.content == content, got.headers["content-length"]) == (True, str(len(content)))
    steps = [{"type": "COPY", "args": ["a", "b", "", "0755"], "filesHash": HASH}]
    assert (await start(web, build, fromImage="alpine", steps=steps)).status_code == 202
    await handed_out(appliance, build)
    assert appliance.node.builds[build["buildID"]].steps[0].files_hash == HASH  # type: ignore[index]  # it has steps
    # It is the team's: another of its templates need not put it again.
    assert (await ask(web, await request(web, name="other")))["present"] is True


async def test_a_url_is_on_the_address_that_the_client_came_by(api_url: str, web: httpx.AsyncClient) -> None:
    build = await request(web)
    assert (await ask(web, build))["url"].startswith(f"{api_url}/templates/{build['templateID']}/files/{HASH}?")
    # As CubeProxy passes it on.
    proxied = await ask(web, build, Host="api.cube.app", **{"X-Forwarded-Proto": "https"})
    assert proxied["url"].startswith("https://api.cube.app/templates/")
    odd = await ask(web, build, Host="evil.example/path?x=")
    assert odd["url"].startswith("https://api.cube.app/templates/")


async def test_an_upload_needs_the_url_as_it_was_given(appliance: Appliance, web: httpx.AsyncClient) -> None:
    build = await request(web)
    url = (await ask(web, build))["url"]
    bare, query = url.split("?")
    signature = query.rpartition("=")[2]
    soon = dict(pair.split("=") for pair in query.split("&"))["expires"]
    for tried, code in (
        (bare, 401),
        (url.replace(signature, "0" * 64), 401),
        (url.replace(signature, "é"), 401),
        (url.replace(HASH, OTHER), 401),
        (url.replace(f"expires={soon}", f"expires={int(soon) + 1}"), 401),
        (url.replace(f"expires={soon}", "expires=never"), 400),
    ):
        refused = await put(tried, b"data")
        assert (refused.status_code, refused.json()["code"]) == (code, code), tried
    assert stored(appliance) == []


async def test_an_upload_that_is_too_large_is_refused_before_it_is_read(
    appliance: Appliance, web: httpx.AsyncClient
) -> None:
    build = await request(web)
    parts = urlsplit((await ask(web, build))["url"])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {9 * MIB}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    assert b" 413 " in answer
    assert stored(appliance) == []


async def test_a_team_has_only_so_much_room(web: httpx.AsyncClient) -> None:
    build = await request(web)
    assert (await put((await ask(web, build))["url"], b"1" * (7 * MIB))).status_code == 200
    refused = await put((await ask(web, build, OTHER))["url"], b"2" * (6 * MIB))
    assert (refused.status_code, "files.team_max_bytes" in refused.json()["message"]) == (429, True)
    # One that takes another's place is counted beside it until it has done so.
    assert (await put((await ask(web, build))["url"], b"1" * (4 * MIB))).status_code == 200
    assert (await put((await ask(web, build, OTHER))["url"], b"2" * (6 * MIB))).status_code == 200


async def test_uploads_that_are_none(appliance: Appliance, web: httpx.AsyncClient) -> None:
    build = await request(web)
    url = (await ask(web, build))["url"]

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data"

    async with httpx.AsyncClient() as http:
        chunked = await http.put(url, content=chunks())
    assert (chunked.status_code, "Content-Length" in chunked.json()["message"]) == (411, True)
    assert (await put(url, b"")).status_code == 400
    for name in ("AB" * 32, "ab" * 31, "..%2F..%2Fetc"):
        refused = await web.get(f"/templates/{build['templateID']}/files/{name}")
        assert refused.status_code in (400, 404)
    assert (await web.get(f"/templates/nothing/files/{HASH}")).status_code == 404
    assert stored(appliance) == []


@pytest.mark.parametrize("gives_up", [True, False])
async def test_an_upload_that_stops_half_way_leaves_nothing(
    appliance: Appliance, web: httpx.AsyncClient, gives_up: bool
) -> None:
    build = await request(web)
    parts = urlsplit((await ask(web, build))["url"])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {5 * MIB}\r\n\r\n"
    writer.write(head.encode() + b"x" * (3 * MIB))
    await writer.drain()

    async def begun() -> bool:
        return bool(stored(appliance))

    await eventually(begun)
    if not gives_up:
        async with asyncio.timeout(15):
            assert b" 503 " in await reader.readuntil(b"\r\n")
    writer.close()

    async def gone() -> bool:
        return stored(appliance) == []

    await eventually(gone)
    assert (await ask(web, build))["present"] is False


async def test_files_of_another_team_are_not_there(
    web: httpx.AsyncClient, others: dict[str, str], appliance: Appliance
) -> None:
    build = await request(web)
    await put((await ask(web, build))["url"], b"mine")
    theirs = (await web.post("/v3/templates", json={"name": "app"}, headers=others)).json()
    assert (await ask(web, theirs, **others))["present"] is False
    path = f"/templates/{build['templateID']}/files/{HASH}"
    assert (await web.get(path, headers=others)).status_code == 404
    assert (await web.get(path, headers={"X-API-Key": "e2b_" + "0" * 40})).status_code == 401
    assert (await fetched(appliance, theirs["templateID"])).status_code == 404


async def test_files_go_when_nobody_needs_them(appliance: Appliance, web: httpx.AsyncClient) -> None:
    kept, unused, deleted, building = "1" * 64, "2" * 64, "3" * 64, "4" * 64
    app, other = await request(web), await request(web, name="other")
    for build, name in ((app, kept), (app, unused), (other, deleted), (app, building)):
        assert (await put((await ask(web, build, name))["url"], name.encode())).status_code == 200
    steps = [{"type": "COPY", "args": ["a", "b"], "filesHash": building}]
    assert (await start(web, app, fromImage="alpine", steps=steps)).status_code == 202
    assert (await web.delete("/templates/other")).status_code == 204
    orphan = stored(appliance)[0].with_name("5" * 64)
    orphan.write_text("no row")
    assert len(stored(appliance)) == 5

    def age(name: str, what: str) -> None:
        statement = f"UPDATE template_files SET used_at = used_at - INTERVAL {what} WHERE files_hash = '{name}'"
        appliance.db.execute(statement, database="cube_master")

    age(kept, "3 DAY")
    age(unused, "8 DAY")
    age(deleted, "3 HOUR")
    age(building, "8 DAY")

    async def left() -> bool:
        return {path.name for path in stored(appliance)} == {kept, building, orphan.name}

    await eventually(left)
    await handed_out(appliance, app)
    appliance.node.finish_build(app["buildID"], BuildState.READY)
    await ended(web, app)

    async def only_kept() -> bool:
        # The orphan is new: its row might be on its way.
        return {path.name for path in stored(appliance)} == {kept, orphan.name}

    await eventually(only_kept)


async def test_a_lost_file_is_asked_for_again(appliance: Appliance, web: httpx.AsyncClient) -> None:
    build = await request(web)
    await put((await ask(web, build))["url"], b"data")
    stored(appliance)[0].unlink()
    assert (await ask(web, build))["present"] is False
    assert (await fetched(appliance, build["templateID"])).status_code == 404
