"""What builds take from earlier ones: kept steps, and other templates."""

from __future__ import annotations

import asyncio

import pytest

from appliance.domain.errors import BuildNotFound
from tests.integration.template_builds.conftest import Node, said, step
from tests.support.waiting import eventually

_RANDOM = step("RUN", "head -c 8 /dev/urandom | md5sum > kept")


async def test_a_rebuild_goes_on_from_where_it_differs(node: Node) -> None:
    base = (step("ENV", "A", "1"), step("WORKDIR", "/srv/x"), _RANDOM)
    _, _ = await node.built(*base, step("RUN", "cat kept"), template_id="cached")
    second, log = await node.built(*base, step("RUN", "echo other $A $(pwd)"), template_id="cached")
    assert "CACHED [builder 3/4] RUN head -c 8 /dev/urandom | md5sum > kept" in log
    assert "[builder 4/4] [stdout]: other 1 /srv/x" in log
    third, log = await node.built(
        *base[:2], _RANDOM.model_copy(update={"force": True}), step("RUN", "cat kept"), template_id="cached"
    )
    assert "CACHED [builder 2/4] WORKDIR /srv/x" in log
    assert not any(line.startswith("CACHED [builder 3/4]") for line in log)
    async with node.sandbox(second) as kept, node.sandbox(third) as anew:
        assert await said(kept, "cat kept") != await said(anew, "cat kept")
    # With its last build gone, nothing of a template is kept.
    for build_id in {template.build_id for template in (await node.client.status()).replicas} - {node.base_build}:
        await node.client.delete_build("cached", build_id)
    entries = node.base / "data" / "steps"
    await eventually(lambda: not any('"cached"' in meta.read_text() for meta in entries.glob("*/meta.json")))


async def test_a_template_is_built_upon(node: Node) -> None:
    first, _ = await node.built(
        step("ENV", "A", "1"),
        step("USER", "root"),
        step("RUN", "echo one > /one"),
        start_cmd="sleep infinity",
        ready_cmd="pgrep -f 'sleep infinity'",
    )
    second, log = await node.built(step("RUN", "id -un && cat /one && echo two > /two"), from_build=first)
    assert "[builder 1/1] [stdout]: root" in log
    assert "[builder 1/1] [stdout]: one" in log
    async with node.sandbox(second) as guest:
        assert await said(guest, "pgrep -fx 'sleep infinity' > /dev/null && cat /one /two && echo $A") == "one\ntwo\n1"


async def test_a_start_command_that_fails_fails_the_build(node: Node) -> None:
    where, why = await node.failed(start_cmd="echo cannot >&2; exit 7")
    assert (where, why) == ("finalize", "start command failed: exit status 7")


async def test_a_build_that_is_deleted_stops_and_frees_everything(node: Node) -> None:
    request = node.request(step("RUN", "echo begun; sleep 1000"), template_id="doomed")
    await node.client.start_build(request)
    begun = "[builder 1/1] [stdout]: begun"
    async with asyncio.timeout(120):
        while begun not in [entry.message for entry in (await node.client.get_build(request.build_id)).logs]:  # noqa: ASYNC110 - asks
            await asyncio.sleep(0.1)
    await node.client.delete_build("doomed", request.build_id)
    # The step that it kept goes a moment later: another build may delay that.
    await eventually(lambda: not any(node.left().values()))
    with pytest.raises(BuildNotFound):
        await node.client.get_build(request.build_id)
