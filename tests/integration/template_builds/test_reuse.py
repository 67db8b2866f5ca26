"""What builds take from earlier ones: kept steps, and other templates."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from appliance.domain.errors import BuildNotFound
from tests.integration.template_builds.conftest import DISK_MIB, Node, said, step
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


async def test_the_disk_of_a_template_grows_for_what_is_built_upon_it(node: Node) -> None:
    """Past 8 GiB, where ext4 without room set aside for it begins another group of descriptors."""
    size_mib = 9 * 1024
    first, log = await node.built(step("USER", "root"), step("RUN", "head -c 50M /dev/urandom > /old; md5sum /old"))
    (digest,) = (line.rpartition(": ")[2] for line in log if "[stdout]" in line)
    fill = step("RUN", "head -c 150M /dev/zero | tr '\\0' x > /new")
    grown, log = await node.built(fill, from_build=first, writable_layer_mib=size_mib)
    assert f"the disk grows from {DISK_MIB} MiB to {size_mib} MiB" in log
    again, log = await node.built(fill, step("RUN", "true"), from_build=first, writable_layer_mib=size_mib)
    assert any(line.startswith("CACHED [builder 1/2]") for line in log)
    for build_id in (grown, again):
        assert (await node.client.get_build(build_id)).disk_size_mib == size_mib
        disk = node.base / "data" / "templates" / build_id / "upper.img"
        # What was written, and next to nothing for the rest.
        assert disk.stat().st_blocks * 512 < 400 * 2**20
        await asyncio.to_thread(
            subprocess.run, ("e2fsck", "-f", "-n", str(disk)), check=True, timeout=120, capture_output=True
        )
        async with node.sandbox(build_id) as guest:
            assert await said(guest, "md5sum /old") == digest
            assert int(await said(guest, "df --output=size -m / | tail -1")) > size_mib * 0.95
            assert await said(guest, "head -c 200M /dev/zero > more && stat -c %s more /new") == "209715200\n157286400"


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
