"""What a guest notices of pauses: with its RAM nothing but time, without it a boot."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import Pause, Snapshot
from appliance.domain.errors import Conflict
from tests.support.pause_cycles import cycle_often
from tests.support.real_node import TEMPLATE, RealNode, again

pytestmark = [pytest.mark.root, pytest.mark.guest]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


async def test_a_sandbox_with_its_ram_notices_nothing_but_the_time(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"})
    await node.start(cubelet, sandbox_id, "while :; do echo $((++n)) 1<>/dev/shm/counter; sleep 0.1; done")
    boot_id = await node.sh(cubelet, sandbox_id, BOOT_ID)
    machine_id = await node.sh(cubelet, sandbox_id, "cat /etc/machine-id")
    await node.sh(cubelet, sandbox_id, "echo cached > /root/unsynced; echo nonce > /dev/shm/nonce; sleep 1")
    counted = int(await node.sh(cubelet, sandbox_id, "cat /dev/shm/counter"))

    await cubelet.pause_sandbox(sandbox_id, Pause(require_healthy_guest=True))
    assert node.vmms() == 0
    with pytest.raises(Conflict):
        await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
    await asyncio.sleep(3)
    resumed = await cubelet.resume_sandbox(sandbox_id, again())

    assert (resumed.state, resumed.generation) == ("running", 2)
    assert await node.sh(cubelet, sandbox_id, "echo $FROM_CREATE") == "kept"
    assert await node.sh(cubelet, sandbox_id, BOOT_ID) == boot_id
    assert await node.sh(cubelet, sandbox_id, "cat /etc/machine-id") == machine_id
    assert await node.sh(cubelet, sandbox_id, "cat /root/unsynced /dev/shm/nonce") == "cached\nnonce"
    assert abs(float(await node.sh(cubelet, sandbox_id, "date +%s.%N")) - time.time()) < 2
    later = int(await node.sh(cubelet, sandbox_id, "sleep 1; cat /dev/shm/counter"))
    # It went on from where it was, and did not run meanwhile.
    assert counted < later < counted + 600


async def test_a_sandbox_of_a_disk_alone_boots(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"})
    boot_id = await node.sh(cubelet, sandbox_id, BOOT_ID)
    await node.sh(cubelet, sandbox_id, "echo cached > /root/unsynced; rm -f /tmp/started-*")

    await cubelet.pause_sandbox(sandbox_id, Pause(memory=False))
    shown = await cubelet.get_sandbox(sandbox_id)
    assert shown.filesystem_only
    assert not list(node.base.glob("data/sandboxes/*/saved/vm"))
    await cubelet.resume_sandbox(sandbox_id, again())

    booted = await node.sh(cubelet, sandbox_id, BOOT_ID)
    assert booted != boot_id
    assert await node.sh(cubelet, sandbox_id, "cat /root/unsynced; echo $FROM_CREATE") == "cached\nkept"
    assert await node.sh(cubelet, sandbox_id, "sleep 1; ls /tmp | grep -c started") == "1", "its command runs again"
    # From here on it is like any other.
    await node.sh(cubelet, sandbox_id, "echo nonce > /dev/shm/nonce")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, f"cat /dev/shm/nonce; {BOOT_ID}") == f"nonce\n{booted}"
    build_id = f"snapshot-{sandbox_id}"
    await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id=TEMPLATE, build_id=build_id))
    child = await node.create(cubelet, build_id=build_id)
    await cubelet.delete_build(TEMPLATE, build_id)
    await cubelet.pause_sandbox(child, Pause())
    await cubelet.resume_sandbox(child, again())
    assert await node.sh(cubelet, child, "cat /dev/shm/nonce") == "nonce"
    # Its disk may be booted though its RAM was kept.
    await node.sh(cubelet, sandbox_id, "echo later > /root/unsynced")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again(memory=False))
    assert await node.sh(cubelet, sandbox_id, BOOT_ID) != booted
    assert await node.sh(cubelet, sandbox_id, "cat /root/unsynced; echo $FROM_CREATE") == "later\nkept"


async def test_many_pauses_change_nothing_and_need_no_more_room(node: RealNode, cubelet: NodeClient) -> None:
    """`make soak` does it 200 times, by when the guest has settled, too."""
    assert len(await cycle_often(node, cubelet, 16)) == 16


async def test_a_snapshot_is_used_twice_and_gives_two_machines(node: RealNode, cubelet: NodeClient) -> None:
    source = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"})
    await node.sh(cubelet, source, "echo disk > /root/file; echo ram > /dev/shm/file")
    build_id = f"snapshot-{source}"
    taken = await cubelet.snapshot_sandbox(source, Snapshot(template_id="snap", build_id=build_id))
    assert taken.disk_size_mib == 512
    assert await cubelet.snapshot_sandbox(source, Snapshot(template_id="snap", build_id=build_id)) == taken
    assert await node.sh(cubelet, source, "cat /root/file") == "disk", "the source goes on"
    with pytest.raises(Conflict):
        await cubelet.delete_build(TEMPLATE, node.build_id)
    children = [await node.create(cubelet, build_id=build_id, env_vars={"OWN": str(n)}) for n in range(2)]
    seen = []
    for number, child in enumerate(children):
        shown = await node.sh(cubelet, child, "cat /root/file /dev/shm/file; echo $FROM_CREATE $OWN")
        assert shown == f"disk\nram\nkept {number}"
        await node.sh(cubelet, child, f"echo {number} > /root/file; echo {number} > /dev/shm/file")
        seen.append(await node.sh(cubelet, child, "cat /etc/machine-id; hostname; head -c 8 /dev/urandom | od -tx8"))
    assert seen[0] != seen[1]
    await cubelet.delete_build("snap", build_id)
    for number, child in enumerate(children):
        await cubelet.pause_sandbox(child, Pause())
        await cubelet.resume_sandbox(child, again())
        assert await node.sh(cubelet, child, "cat /root/file /dev/shm/file") == f"{number}\n{number}"
    assert await node.sh(cubelet, source, "cat /root/file") == "disk"


async def test_a_snapshot_of_a_disk_alone_gives_sandboxes_that_boot(node: RealNode, cubelet: NodeClient) -> None:
    source = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"})
    await node.sh(cubelet, source, "echo disk > /root/file; echo ram > /dev/shm/file")
    build_id = f"snapshot-{source}"
    await cubelet.snapshot_sandbox(source, Snapshot(template_id="snap", build_id=build_id, memory=False))
    child = await node.create(cubelet, build_id=build_id)
    assert await node.sh(cubelet, child, "cat /root/file; ls /dev/shm; echo $FROM_CREATE") == "disk\nkept"
    await cubelet.delete_build("snap", build_id)
    await cubelet.pause_sandbox(child, Pause())
    await cubelet.resume_sandbox(child, again())
    assert await node.sh(cubelet, child, "cat /root/file") == "disk"


async def test_at_its_end_time_it_is_paused_and_goes_on_later(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await node.create(cubelet, on_timeout="pause")
    await node.sh(cubelet, sandbox_id, "echo ram > /dev/shm/file")
    await cubelet.set_deadline(sandbox_id, datetime.now(UTC) - timedelta(seconds=1))
    async with asyncio.timeout(30):
        while (await cubelet.get_sandbox(sandbox_id)).state != "paused":  # noqa: ASYNC110 - asked over a socket
            await asyncio.sleep(0.1)
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, "cat /dev/shm/file") == "ram"
