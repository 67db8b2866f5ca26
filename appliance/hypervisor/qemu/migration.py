"""Device state to and from a file, by QEMU's migration code. RAM is in it only where it is not shared with a file.

There are two kinds. A migration describes itself: a configuration comes first, a description of all fields last. The
devices alone (`xen-save-devices-state`, made for hypervisors that move RAM themselves) have neither, and QEMU must be
told at its start not to expect them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from appliance.common.threads import in_thread
from appliance.domain.errors import VmmFailure
from appliance.hypervisor.deadlines import together
from appliance.hypervisor.qemu.argv import fd_set
from appliance.hypervisor.qemu.qmp import Message, QmpClient

_CAPABILITIES = {
    "capabilities": [
        # RAM that is mapped shared stays where it is.
        {"capability": "x-ignore-shared", "state": True},
        # Tells when it is done, so that nothing is polled.
        {"capability": "events", "state": True},
    ]
}


# A machine that has moved announces its address, five times in a second; a clone's tap knows it. For the guest each
# time is an interrupt and 3 ms of work, at the very moment that somebody waits for it.
_PARAMETERS = {"announce-rounds": 0}


async def save_state(qmp: QmpClient, path: Path) -> None:
    """Stop the machine and write its device state to `path`, durably and whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o444)
    except OSError as error:
        raise VmmFailure(f"{partial}: {error.strerror}") from error
    try:
        await qmp.execute_all([("stop", None), ("migrate-set-capabilities", _CAPABILITIES)])
        handed_over = await qmp.execute("add-fd", fd=fd)
        await qmp.execute("migrate", {"uri": f"file:{fd_set(handed_over['fdset-id'])}"})
        if not _completed(await qmp.event("MIGRATION", _ended)):
            failure = await qmp.execute("query-migrate")
            raise VmmFailure(f"QEMU could not save its state: {failure.get('error-desc', failure.get('status'))}")
        await asyncio.to_thread(os.fsync, fd)
        partial.replace(path)
    except OSError as error:
        raise VmmFailure(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)
        partial.unlink(missing_ok=True)


async def save_devices(qmp: QmpClient, path: Path, *, meanwhile: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Stop the machine and write the state of its devices, without any RAM, durably to the new file `path`.

    `meanwhile` is called once the state is written, and runs while that becomes durable. The machine keeps its disks
    and may be continued.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        await qmp.execute("stop")
        handed_over = (await qmp.execute("add-fd", fd=fd))["fdset-id"]
        # With live=true QEMU would let go of the disks, for another to go on with them.
        await qmp.execute("xen-save-devices-state", {"filename": fd_set(handed_over), "live": False})
        # A machine may be saved any number of times.
        await qmp.execute("remove-fd", {"fdset-id": handed_over})
        await together(in_thread(os.fsync, fd), meanwhile())
    finally:
        os.close(fd)


def describes_itself(state_fd: int) -> bool:
    """Return whether a device state begins with a configuration, and so is a whole migration."""
    # After magic and version, 4 bytes each, the type of the first section: QEMU_VM_CONFIGURATION.
    return os.pread(state_fd, 1, 8) == b"\x07"


async def load_state(qmp: QmpClient, state_fd: int) -> None:
    """Load the device state that QEMU inherited as descriptor `state_fd`, and return with the machine paused."""
    await qmp.execute_all(
        [
            ("migrate-set-capabilities", _CAPABILITIES),
            ("migrate-set-parameters", _PARAMETERS),
            ("migrate-incoming", {"uri": f"file:{fd_set(state_fd)}"}),
        ]
    )
    if not _completed(await qmp.event("MIGRATION", _ended)):
        raise VmmFailure("QEMU could not load the device state")


def _ended(event: Message) -> bool:
    return event.get("status") in ("completed", "failed", "cancelled")


def _completed(event: Message) -> bool:
    return event.get("status") == "completed"
