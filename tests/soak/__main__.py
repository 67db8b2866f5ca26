"""`make soak`: one sandbox on a node with real guests, paused and resumed for as long as it takes to see what piles up.

The tests do the same a few times. Says every cycle's figures, and exits 1 at the first thing that changed. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.support.appliance import ROOT
from tests.support.pause_cycles import Cycle, assert_settles, cycle_often
from tests.support.real_node import real_node


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=200, help="pauses and resumes")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "soak.json")
    options = parser.parse_args()
    begun = time.monotonic()
    try:
        cycles = asyncio.run(_soak(options.cycles))
        assert_settles(cycles)
    except AssertionError as error:
        print(f"failed: {error}")
        return 1
    figures = {
        "cycles": len(cycles),
        "kept_mib": _quarters([one.kept_mib for one in cycles]),
        "kept_ram_mib": _quarters([one.ram_mib for one in cycles]),
        "held_mib": _quarters([one.held_mib for one in cycles]),
        "pause_p50_ms": round(1000 * median(one.pause_s for one in cycles)),
        "resume_p50_ms": round(1000 * median(one.resume_s for one in cycles)),
        "wall_s": round(time.monotonic() - begun),
        "load_average_after": os.getloadavg()[0],
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"nothing changed and nothing piled up; written to {options.output}")
    return 0


async def _soak(count: int) -> list[Cycle]:
    with real_node("soak") as node, node.namespace.entered():
        async with node.calls() as cubelet:
            print("building a template", flush=True)
            await node.build(cubelet)
            return await cycle_often(node, cubelet, count, _say)


def _quarters(values: Sequence[float]) -> list[float]:
    """Return the first of the values, and the last of each quarter."""
    return [round(values[at * (len(values) - 1) // 4], 2) for at in range(5)]


def _say(number: int, cycle: Cycle) -> None:
    print(
        f"cycle {number}: the guest holds {cycle.held_mib:.2f} MiB, {cycle.kept_mib:.2f} MiB were kept; "
        f"pause {1000 * cycle.pause_s:.0f} ms, resume {1000 * cycle.resume_s:.0f} ms",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
