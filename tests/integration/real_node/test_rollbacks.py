"""What is left of a sandbox's later life after a rollback: nothing, neither in the guest nor on the node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import NodeSandboxState, Pause, Rollback, Snapshot
from appliance.domain.errors import CubeError, Unavailable
from tests.support.real_node import TOKEN, RealNode, again

pytestmark = [pytest.mark.root, pytest.mark.guest]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
COUNTING = "echo $$ > /dev/shm/pid; while :; do echo $((++n)) 1<>/dev/shm/counter; sleep 0.1; done"


def back_to(build_id: str) -> Rollback:
    return Rollback(build_id=build_id, access_token=TOKEN)


async def take(cubelet: NodeClient, sandbox_id: str, *, memory: bool = True, name: str = "snapshot") -> str:
    build_id = f"{name}-{sandbox_id}"
    await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id="snap", build_id=build_id, memory=memory))
    return build_id


def sandbox_files(node: RealNode) -> list[str]:
    """Return the files of sandboxes, by their place in the directory of each."""
    return sorted(path.split("/", 2)[2] for path in node.files() if path.startswith("sandboxes/"))


async def counted(node: RealNode, cubelet: NodeClient, sandbox_id: str) -> int:
    return int(await node.sh(cubelet, sandbox_id, "cat /dev/shm/counter"))


async def test_file_process_and_ram_are_as_they_were(node: RealNode, cubelet: NodeClient) -> None:
    end_at = datetime.now(UTC) + timedelta(hours=2)
    sandbox_id = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"}, end_at=end_at)
    await node.start(cubelet, sandbox_id, COUNTING)
    await node.sh(cubelet, sandbox_id, "echo disk > /root/file; head -c 16 /dev/urandom | sha256sum > /dev/shm/nonce")
    machine = await node.sh(cubelet, sandbox_id, f"{BOOT_ID}; cat /etc/machine-id; hostname")
    nonce = await node.sh(cubelet, sandbox_id, "sleep 1; cat /dev/shm/nonce")
    at_snapshot = await counted(node, cubelet, sandbox_id)
    build_id = await take(cubelet, sandbox_id)
    change = (
        "kill -9 $(cat /dev/shm/pid); rm /root/file; echo other > /dev/shm/nonce; echo new > /root/new;"
        " echo 1000000 > /dev/shm/counter; head -c 50M /dev/urandom > /root/big"
    )

    for generation in (1, 2):
        await node.sh(cubelet, sandbox_id, change)
        back = await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))
        assert (back.sandbox_id, back.generation, back.end_at) == (sandbox_id, generation, end_at)
        assert await node.sh(cubelet, sandbox_id, "cat /root/file /dev/shm/nonce; ls /root") == f"disk\n{nonce}\nfile"
        assert await node.sh(cubelet, sandbox_id, f"{BOOT_ID}; cat /etc/machine-id; hostname") == machine
        assert await node.sh(cubelet, sandbox_id, "echo $FROM_CREATE") == "kept"
        now = await counted(node, cubelet, sandbox_id)
        assert at_snapshot <= now < 1_000_000, "it goes on from where it was"
        assert await node.sh(cubelet, sandbox_id, "sleep 1; cat /dev/shm/counter") != str(now), "and it does go on"
        assert node.vmms() == 1
        assert sandbox_files(node) == ["record.json", "upper.img"]

    await node.sh(cubelet, sandbox_id, "echo later > /root/later; echo later > /dev/shm/later")
    later = await take(cubelet, sandbox_id, name="later")
    await cubelet.delete_build("snap", build_id)
    await cubelet.pause_sandbox(sandbox_id, Pause())
    assert node.vmms() == 0
    await cubelet.resume_sandbox(sandbox_id, again())
    seen = "cat /root/file /dev/shm/nonce /root/later /dev/shm/later"
    assert await node.sh(cubelet, sandbox_id, seen) == f"disk\n{nonce}\nlater\nlater"
    child = await node.create(cubelet, build_id=later)
    assert await node.sh(cubelet, child, seen) == f"disk\n{nonce}\nlater\nlater"
    await cubelet.delete_build("snap", later)


async def test_to_a_disk_alone_it_boots_and_is_then_like_any_other(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await node.create(cubelet, env_vars={"FROM_CREATE": "kept"})
    boot_id = await node.sh(cubelet, sandbox_id, BOOT_ID)
    await node.sh(cubelet, sandbox_id, "echo cached > /root/unsynced; rm -f /tmp/started-*")
    build_id = await take(cubelet, sandbox_id, memory=False)
    await node.sh(cubelet, sandbox_id, "rm /root/unsynced; echo ram > /dev/shm/file")

    await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))

    booted = await node.sh(cubelet, sandbox_id, BOOT_ID)
    assert booted != boot_id
    assert await node.sh(cubelet, sandbox_id, "cat /root/unsynced; ls /dev/shm; echo $FROM_CREATE") == "cached\nkept"
    assert await node.sh(cubelet, sandbox_id, "sleep 1; ls /tmp | grep -c started") == "1", "its command runs again"
    assert sandbox_files(node) == ["memory/boot-0", "record.json", "upper.img"]
    await cubelet.delete_build("snap", build_id)
    await node.sh(cubelet, sandbox_id, "echo nonce > /dev/shm/nonce")
    of_booted = await take(cubelet, sandbox_id, name="booted")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    await node.sh(cubelet, sandbox_id, "rm /dev/shm/nonce")
    await cubelet.roll_back_sandbox(sandbox_id, back_to(of_booted))
    assert await node.sh(cubelet, sandbox_id, f"cat /dev/shm/nonce; {BOOT_ID}") == f"nonce\n{booted}"
    # The RAM that it is based on is its own link: the snapshot may go.
    await cubelet.delete_build("snap", of_booted)
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, f"cat /dev/shm/nonce; {BOOT_ID}") == f"nonce\n{booted}"


async def test_one_that_fails_leaves_it_running(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await node.create(cubelet)
    await node.start(cubelet, sandbox_id, COUNTING)
    build_id = await take(cubelet, sandbox_id)
    (state,) = node.base.glob(f"data/templates/{build_id}/vm/device-state")
    state.rename(state.with_name("gone"))
    before, shown = node.files(), await cubelet.get_sandbox(sandbox_id)
    counter = await node.sh(cubelet, sandbox_id, "sleep 1; cat /dev/shm/counter")
    with pytest.raises(CubeError):
        await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))
    assert await cubelet.get_sandbox(sandbox_id) == shown
    assert await node.sh(cubelet, sandbox_id, "sleep 1; cat /dev/shm/counter") != counter
    assert (node.vmms(), node.files()) == (1, before)
    state.with_name("gone").rename(state)
    await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))
    await cubelet.delete_sandbox(sandbox_id)
    assert (node.vmms(), sandbox_files(node)) == (0, [])
    await cubelet.delete_build("snap", build_id)


@pytest.mark.parametrize(
    ("point", "becomes"),
    [
        ("rollback:restored", "later"),
        ("rollback:ready", "later"),
        ("rollback:recorded", "at the snapshot"),
        ("rollback:disowned", "at the snapshot"),
        ("rollback:freed", "at the snapshot"),
    ],
)
async def test_one_that_is_cut_short_is_done_or_never_was(
    point: str, becomes: str, node: RealNode, cubelet: NodeClient
) -> None:
    sandbox_id = await node.create(cubelet)
    write = "echo {0} > /dev/shm/file; echo {0} > /root/file"
    await node.sh(cubelet, sandbox_id, write.format("at the snapshot"))
    build_id = await take(cubelet, sandbox_id)
    await node.sh(cubelet, sandbox_id, write.format("later"))
    node.arm(point)
    with pytest.raises(Unavailable):
        await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))
    node.after_its_death()
    (shown,) = await cubelet.list_sandboxes()
    assert (shown.sandbox_id, shown.state) == (sandbox_id, NodeSandboxState.RUNNING)
    assert shown.generation == (becomes == "at the snapshot")
    assert await node.sh(cubelet, sandbox_id, "cat /dev/shm/file /root/file") == f"{becomes}\n{becomes}"
    assert node.vmms() == 1
    assert sandbox_files(node) == ["record.json", "upper.img"]
    assert len(list((node.base / "vm").iterdir())) == 1

    await cubelet.roll_back_sandbox(sandbox_id, back_to(build_id))
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, "cat /dev/shm/file") == "at the snapshot"
    await cubelet.delete_sandbox(sandbox_id)
    assert (node.vmms(), sandbox_files(node)) == (0, [])
    await cubelet.delete_build("snap", build_id)
