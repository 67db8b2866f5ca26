"""A sandbox for one check of the Python SDK."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from e2b import Sandbox


@contextlib.contextmanager
def sandbox(**options: Any) -> Iterator[Any]:
    """A sandbox of `base`, made as this generation makes one."""
    make = Sandbox.create if hasattr(Sandbox, "create") else Sandbox
    made = make(template="base", timeout=options.pop("timeout", 120), **options)
    try:
        yield made
    finally:
        made.kill()
