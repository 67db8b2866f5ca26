"""Which disk of an earlier build holds the result of the same steps: pure.

A key stands for an origin and the steps so far. It is of one template: what a client calls its files is its own claim,
and the output of its commands its own secret, so no other template may find either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from appliance.cubelet.builds.accounts import PROVISION
from appliance.cubelet.builds.steps import Env, Step

# What we run ourselves is part of what comes out.
_VERSION = hashlib.sha256(PROVISION.encode()).hexdigest()


def step_keys(template_id: str, origin: Sequence[str], disk_size_mib: int, steps: Sequence[Step]) -> tuple[str, ...]:
    """Return a key for the state before the first step and after each: one more than there are steps."""
    keys = [_digest([_VERSION, template_id, *origin, disk_size_mib])]
    for step in steps:
        source = step.source
        keys.append(_digest([keys[-1], source.type.upper(), *source.args, source.files_hash]))
    return tuple(keys)


def reusable_steps(
    keys: Sequence[str], steps: Sequence[Step], is_kept: Callable[[str], bool], *, force: bool
) -> int | None:
    """Return how many steps need not be run, the most there are; None where nothing is kept or wanted."""
    if force:
        return None
    forced = next((number for number, step in enumerate(steps) if step.force), len(steps))
    return next((number for number in range(forced, -1, -1) if is_kept(keys[number])), None)


def is_worth_keeping(step: Step) -> bool:
    """Whether a step may have changed the disk; one that has not is done again in no time."""
    return not isinstance(step.action, Env)


def _digest(parts: Sequence[str | int | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
