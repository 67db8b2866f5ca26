"""What this node found out about itself by running a guest: tried once a boot, and remembered.

So a restarted Cubelet is back at once. A node that is silent for long is taken for lost, and trying a KVM that does not
work takes its whole deadline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

T = TypeVar("T")


class Remembered(BaseModel, Generic[T]):
    """An answer, parametrised with its type: `Remembered[Accelerator]`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    basis: tuple[str, ...]
    answer: T


def basis_of(boot_id: str, *files: Path) -> tuple[str, ...]:
    """Return what an answer rests on: this boot of the node, and the very VMM and kernel that were tried."""
    return (boot_id, *(f"{path.resolve()} {(s := path.stat()).st_size} {s.st_mtime_ns}" for path in files))


async def remembered_or(
    kind: type[Remembered[T]], ask: Callable[[], Awaitable[T]], *, memory: Path, basis: tuple[str, ...]
) -> T:
    """Return what was found out on the same basis, or ask and remember it."""
    known = _recall(kind, memory)
    if known is not None and known.basis == basis:
        return known.answer
    found = kind(basis=basis, answer=await ask())
    _remember(found, memory)
    return found.answer


def _recall(kind: type[Remembered[T]], memory: Path) -> Remembered[T] | None:
    try:
        return kind.model_validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        return None


def _remember(found: Remembered[T], memory: Path) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_suffix(".tmp")
    temporary.write_text(found.model_dump_json())
    temporary.replace(memory)
