"""What an agent says of its guest, as far as it can be true: a guest writes it, and none is trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass

from appliance.domain.errors import GuestFailure

_MAX_PROCESSORS = 1024
_MAX_SIZE = 1 << 53
"""Beyond this, JavaScript's numbers are no longer exact."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a guest says it uses; sizes in bytes."""

    cpu_count: int
    cpu_used_pct: float
    """0 to 100 for each processor."""
    memory_used: int
    memory_total: int
    memory_cache: int
    disk_used: int
    disk_total: int


def parse_usage(payload: bytes) -> Usage:
    """Return the usage that an agent reports, or raise GuestFailure where its numbers cannot be."""
    try:
        report = json.loads(payload)
        cpu_count, cpu_used_pct = report["cpu_count"], report["cpu_used_pct"]
        sizes = [report[key] for key in ("mem_used", "mem_total", "mem_cache", "disk_used", "disk_total")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GuestFailure(f"the guest agent's metrics make no sense: {type(error).__name__}") from error
    if not (type(cpu_count) is int and 1 <= cpu_count <= _MAX_PROCESSORS):
        raise GuestFailure("the guest agent reports an impossible number of processors")
    # A comparison with NaN is false.
    if type(cpu_used_pct) not in (int, float) or not 0 <= cpu_used_pct <= 100 * cpu_count:
        raise GuestFailure("the guest agent reports an impossible use of processors")
    if not all(type(size) is int and 0 <= size <= _MAX_SIZE for size in sizes):
        raise GuestFailure("the guest agent reports an impossible size")
    return Usage(cpu_count, float(cpu_used_pct), *sizes)


def parse_environment(payload: bytes) -> dict[str, str]:
    """Return the environment that an agent reports, or raise GuestFailure where it is none."""
    try:
        environment = json.loads(payload)["envVars"]
        if all(isinstance(value, str) for value in environment.values()):
            return dict(environment)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GuestFailure(f"the guest agent's environment makes no sense: {type(error).__name__}") from error
    raise GuestFailure("the guest agent's environment has values that are no text")
