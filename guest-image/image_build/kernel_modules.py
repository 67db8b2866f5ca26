"""Which modules of the kernel go into the initramfs, and in which order they are loaded.

A kernel package carries no `modules.dep` (depmod writes that on the machine it is installed on), so what a module
depends on is read from the module itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")


class UnknownModule(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"The kernel has no module {name}, neither as a file nor built in")
        self.name = name


def dependencies(module: bytes) -> tuple[str, ...]:
    """Return the names in the `depends=` entry of a module's `.modinfo`, a section of NUL-terminated strings."""
    found = _DEPENDS.search(module)
    if found is None:
        return ()
    return tuple(name.replace("-", "_") for name in found[1].decode().split(",") if name)


def parse_builtin(modules_builtin: str) -> frozenset[str]:
    """Read `modules.builtin` and return the names of the modules that are part of the kernel itself."""
    return frozenset(module_name(path) for path in modules_builtin.split())


def load_order(
    wanted: Iterable[str],
    available: frozenset[str],
    builtin: frozenset[str],
    needs: Callable[[str], tuple[str, ...]],
) -> tuple[str, ...]:
    """Return the names of `wanted` and all they need, so that each comes after what it depends on."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in available:
            raise UnknownModule(name)
        for needed in needs(name):
            add(needed)
        ordered[name] = None

    for name in wanted:
        add(name)
    return tuple(ordered)


def module_name(path: str) -> str:
    """`kernel/drivers/net/virtio-net.ko` -> `virtio_net`: the kernel takes - and _ for the same."""
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")
