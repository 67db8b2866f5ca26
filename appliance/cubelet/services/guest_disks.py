"""The disks of a machine, in the order in which its guest's init expects them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.contracts.node_volumes import MAX_VOLUMES
from appliance.hypervisor.base import Disk, Slot


def guest_disks(agent: Path, upper: Path, layers: tuple[Path, ...]) -> tuple[Disk, ...]:
    """Return the disks that each has: agent, writable upper, layers from the lowest."""
    return (
        Disk(agent, read_only=True),
        Disk(upper, read_only=False),
        *(Disk(layer, read_only=True) for layer in layers),
    )


def volume_slots(size_mib: int, images: Sequence[Path] = ()) -> tuple[Slot, ...]:
    """Return the slots that every machine has, with `images` in the first of them."""
    return tuple(Slot(size_mib, images[number] if number < len(images) else None) for number in range(MAX_VOLUMES))
