"""A sandbox that works, is paused and resumed, time and again: nothing of it may change, and nothing may pile up.

What a pause may take of the disk is what the guest itself holds: its blocks, and the pages of RAM that it has touched.
Both grow while a guest warms up; what the node keeps beside them, or of former pauses, must not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.clients.node import NodeClient
from appliance.contracts.node import Pause
from appliance.cubelet.runtime import RecordStore, VmRecord
from appliance.domain.ids import SandboxId
from appliance.hypervisor.private_memory import PAGE_BYTES, private_memory
from tests.support.real_node import RealNode, again

_MIB = 2**20
PAUSED = {"record.json", "saved/saved.json", "saved/upper.img", "saved/vm/device-state", "saved/vm/changed-pages"}
RUNNING = {"record.json", "upper.img"}
_FILES = 8
_LARGEST = 400_000
_TABLES_MIB = 0.5
"""Of ext4: what it does not count among the blocks of its files."""
_BESIDE_MIB = 0.0625
"""Record, state of the devices, index of the pages."""
_CONNECTIONS = 8
"""Of which some may be closing, and others just made."""


@dataclass(frozen=True, slots=True)
class Cycle:
    held_mib: float
    """Just before the pause: blocks that the guest's file system has in use, and pages that it has changed."""
    kept_mib: float
    """Of the node's disk, paused."""
    ram_mib: float
    """The part of it that is the guest's RAM."""
    pause_s: float
    resume_s: float


async def cycle_often(
    node: RealNode, cubelet: NodeClient, count: int, done: Callable[[int, Cycle], None] | None = None
) -> list[Cycle]:
    """Pause and resume one sandbox `count` times, with writes in between; raise AssertionError where it notices."""
    before = node.files()
    sandbox_id = await node.create(cubelet)
    await node.sh(cubelet, sandbox_id, "mkdir /data; head -c 16 /dev/urandom | sha256sum > /dev/shm/nonce")
    await node.start(cubelet, sandbox_id, "while :; do echo $((++n)) 1<>/dev/shm/counter; sleep 0.05; done")
    nonce = await node.sh(cubelet, sandbox_id, "cat /dev/shm/nonce")
    choice = random.Random(1)
    open_files = node.open_files()
    counted, cycles = 0, []
    for number in range(1, count + 1):
        write = f"head -c {choice.randrange(1, _LARGEST)} /dev/urandom > /data/{choice.randrange(_FILES)}"
        usage = "sync; stat -f -c '%b %f %S' /"
        *hashes, used = (await node.sh(cubelet, sandbox_id, f"{write}; sha256sum /data/* | sort; {usage}")).splitlines()
        cycle = await _once(node, cubelet, sandbox_id, _used_mib(used))
        assert node.open_files() <= open_files + _CONNECTIONS, "Cubelet keeps files open"
        seen = await node.sh(cubelet, sandbox_id, "sha256sum /data/* | sort; cat /dev/shm/nonce /dev/shm/counter")
        *found, found_nonce, counter = seen.splitlines()
        assert (found, found_nonce) == (hashes, nonce), f"cycle {number} changed files or RAM"
        assert int(counter) > counted, f"cycle {number} did not go on"
        counted = int(counter)
        cycles.append(cycle)
        if done is not None:
            done(number, cycle)
    await cubelet.delete_sandbox(sandbox_id)
    assert node.files() == before, "the sandbox has left files"
    return cycles


async def _once(node: RealNode, cubelet: NodeClient, sandbox_id: SandboxId, used_mib: float) -> Cycle:
    records = RecordStore(node.base / "data" / "sandboxes")
    record = _record(records, sandbox_id)
    directory = records.directory(record.vm_id)
    changed_mib = _changed_mib(node, record)
    begun = time.monotonic()
    await cubelet.pause_sandbox(sandbox_id, Pause())
    paused = time.monotonic()
    kept_mib = node.blocks_mib(directory)
    ram_mib = node.blocks_mib(directory / "saved" / "vm")
    held_mib = used_mib + changed_mib
    assert _files(directory) == PAUSED, "a pause keeps one generation, and nothing beside it"
    assert kept_mib <= held_mib + _TABLES_MIB + _BESIDE_MIB, f"{kept_mib:.2f} MiB kept of {held_mib:.2f}"
    assert node.vmms() == 0
    begun_again = time.monotonic()
    await cubelet.resume_sandbox(sandbox_id, again())
    resumed = time.monotonic()
    assert _files(directory) == RUNNING, "a resume leaves nothing of the pause"
    return Cycle(held_mib, kept_mib, ram_mib, paused - begun, resumed - begun_again)


def assert_settles(cycles: Sequence[Cycle]) -> None:
    """Raise AssertionError where the last quarter added more than a quarter of what the first did to the RAM kept.

    A guest touches ever fewer pages for the first time, and comes to an end. What each cycle adds anew does not.
    """
    quarter = len(cycles) // 4
    ram_mib = [cycles[at].ram_mib for at in (0, quarter, -1 - quarter, -1)]
    first, last = ram_mib[1] - ram_mib[0], ram_mib[3] - ram_mib[2]
    assert last <= first / 4, (
        f"{quarter} cycles added {first:.1f} MiB of RAM at first and {last:.1f} in the end, to {ram_mib[3]:.1f}"
    )


def _record(records: RecordStore, sandbox_id: SandboxId) -> VmRecord:
    (record,) = (one for one in records.load().records if one.sandbox and one.sandbox.sandbox_id == sandbox_id)
    return record


def _changed_mib(node: RealNode, record: VmRecord) -> float:
    """Return the RAM that the running machine has changed, in the kernel's account."""
    assert record.process is not None
    with private_memory(record.process.pid, node.base / "data" / "templates" / node.build_id / "memory") as memory:
        return sum(run.count for run in memory.changed()) * PAGE_BYTES / _MIB


def _used_mib(statfs: str) -> float:
    blocks, free, size = map(int, statfs.split())
    return (blocks - free) * size / _MIB


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
