"""The accelerator of this node: tried once a boot, and remembered, so that a restarted Cubelet is back at once.

A node that is silent for long is taken for lost, and trying a KVM that does not work takes its whole deadline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from appliance.hypervisor.base import Accelerator


class _Remembered(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    basis: tuple[str, ...]
    accelerator: Accelerator


def basis_of(boot_id: str, *files: Path) -> tuple[str, ...]:
    """Return what the choice rests on: this boot of the node, and the very VMM and kernel that were tried."""
    return (boot_id, *(f"{path.resolve()} {(s := path.stat()).st_size} {s.st_mtime_ns}" for path in files))


async def remembered_or(
    choose: Callable[[], Awaitable[Accelerator]], *, memory: Path, basis: tuple[str, ...]
) -> Accelerator:
    """Return what was chosen on the same basis, or choose and remember it."""
    known = _recall(memory, basis)
    if known is not None:
        return known
    accelerator = await choose()
    _remember(memory, _Remembered(basis=basis, accelerator=accelerator))
    return accelerator


def _recall(memory: Path, basis: tuple[str, ...]) -> Accelerator | None:
    try:
        remembered = _Remembered.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        return None
    return remembered.accelerator if remembered.basis == basis else None


def _remember(memory: Path, choice: _Remembered) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_suffix(".tmp")
    temporary.write_text(choice.model_dump_json())
    temporary.replace(memory)
