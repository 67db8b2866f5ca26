"""`python -m tests.benchmarks`: what a create, a pause and a fork cost, against what they must cost on this host.

Two appliances run side by side, one that keeps a pool and one that keeps none, and a tap with nothing around it. Every
block measures everything once, in turns, so that what the host does meanwhile happens to all. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from appliance.hypervisor.base import Accelerator
from tests.benchmarks import keeping, report
from tests.benchmarks.figures import Series, percentile
from tests.benchmarks.floors import Floors
from tests.benchmarks.platform import Created, Outcomes, Platform, Way
from tests.support.appliance import ROOT, appliance
from tests.support.netns import network_namespace

_AT_ONCE = 5
_NAMES = (
    "cold_boot",
    "floor_restore",
    "floor_claim",
    "full_save",
    "create_pool_hit",
    "create_pool_hit_api",
    "create_pool_hit_c5",
    "create_pool_hit_c5_api",
    "create_on_demand",
    "create_on_demand_api",
    "create_on_demand_c5",
    "create_on_demand_c5_api",
    "first_exec",
    "warm_exec",
    *keeping.NAMES,
)


@dataclass(frozen=True)
class Plan:
    blocks: int
    least_blocks: int
    """Run however slow the host is: fewer say nothing."""
    pairs: int
    """Creates one at a time, in each block and each of the two ways; and sandboxes that are paused and copied."""
    floor_samples: int
    budget_s: float
    """Beyond the least, no block begins later than this after the start."""


FULL = Plan(blocks=9, least_blocks=5, pairs=3, floor_samples=3, budget_s=300)
QUICK = Plan(blocks=2, least_blocks=1, pairs=2, floor_samples=2, budget_s=60)


class Measurement:
    """Runs blocks and keeps what they yield."""

    def __init__(self, floors: Floors, pooled: Platform, unpooled: Platform, plan: Plan) -> None:
        self._floors = floors
        self._pooled = pooled
        self._unpooled = unpooled
        self._plan = plan
        self.series = {name: Series(name) for name in _NAMES}
        self.pool_misses = 0

    async def block(self) -> None:
        for one in self.series.values():
            one.begin_block()
        await self._floor("cold_boot", self._floors.cold_boot, times=1)
        await self._one_at_a_time(self._pooled, "create_pool_hit")
        await self._floor("floor_claim", self._floors.claim)
        await self._all_at_once(self._pooled, "create_pool_hit_c5")
        await self._one_at_a_time(self._unpooled, "create_on_demand")
        await self._floor("floor_restore", self._floors.restore)
        await self._all_at_once(self._unpooled, "create_on_demand_c5")
        await self._keeping(self._unpooled)
        await self._floor("full_save", self._floors.full_save, times=1)

    def last_block(self) -> str:
        """Return the block's main results in ms, to be looked at while the next one runs."""
        shown = {"create_pool_hit": "pool hit", "floor_claim": "F1", "create_on_demand": "on demand"}
        shown |= {"floor_restore": "F0", "pause": "pause", "resume": "resume", "fork": "fork", "cold_boot": "C1"}
        return ", ".join(f"{title} {percentile(self.series[name].blocks[-1], 50):.0f}" for name, title in shown.items())

    async def _floor(self, name: str, measure: Callable[[], Awaitable[float]], times: int | None = None) -> None:
        # The other appliance would refill its pool beside it.
        await self._quiet()
        for _ in range(times or self._plan.floor_samples):
            self.series[name].add(await measure())

    async def _one_at_a_time(self, platform: Platform, name: str) -> None:
        await self._quiet()
        with platform.reached():
            made = [(way, await platform.create(way)) for _ in range(self._plan.pairs) for way in (Way.PROXY, Way.API)]
            await self._keep(platform, name, made)
            if platform.pooled:
                await self._commands(platform, [sandbox for _, sandbox in made if sandbox is not None])
            await platform.kill([sandbox for _, sandbox in made if sandbox is not None])

    async def _commands(self, platform: Platform, sandboxes: Iterable[Created]) -> None:
        # Not while the pool refills: what is compared are two commands, not two moments.
        await platform.filled()
        for sandbox in sandboxes:
            first_ms, _, third_ms = [await platform.run_true(sandbox) for _ in range(3)]
            self.series["first_exec"].add(first_ms)
            self.series["warm_exec"].add(third_ms)

    async def _all_at_once(self, platform: Platform, name: str) -> None:
        for way in Way:
            await self._quiet()
            with platform.reached():
                made = [(way, one) for one in await asyncio.gather(*(platform.create(way) for _ in range(_AT_ONCE)))]
                await self._keep(platform, name, made)
                await platform.kill([sandbox for _, sandbox in made if sandbox is not None])

    async def _keeping(self, platform: Platform) -> None:
        await self._quiet()
        with platform.reached():
            await keeping.keep(platform, self.series, times=self._plan.pairs)

    async def _keep(self, platform: Platform, name: str, made: Iterable[tuple[Way, Created | None]]) -> None:
        """Keep the durations of those that came from where they were meant to come from."""
        origins = await platform.origins()
        for way, sandbox in made:
            if sandbox is None:
                continue
            if origins.get(sandbox.sandbox_id) is not bool(platform.pooled):
                self.pool_misses += 1
                continue
            self.series[name if way is Way.PROXY else f"{name}_api"].add(sandbox.ms)

    async def _quiet(self) -> None:
        with self._pooled.reached():
            await self._pooled.filled()


async def measure(console: Console, options: argparse.Namespace, plan: Plan) -> int:
    begun = time.monotonic()
    load_before = _load()
    async with AsyncExitStack() as stack:
        step = _Steps(console)
        step("starting an appliance with a pool and one without")
        processes = stack.enter_context(ExitStack())
        pool = max(2 * plan.pairs, _AT_ONCE)
        pooled = Platform(
            processes.enter_context(appliance(options.guest, pool=pool, name="pool")),
            image=str(options.image),
            pooled=pool,
        )
        unpooled = Platform(
            processes.enter_context(appliance(options.guest, pool=0, name="bare")), image=str(options.image), pooled=0
        )
        for platform in (unpooled, pooled):
            step(f"building a template of {options.image.name}, {'with' if platform.pooled else 'without'} a pool")
            platform.build_template()
            await stack.enter_async_context(platform.connected())
        node = await unpooled.node()
        floors = Floors(
            unpooled.template(),
            options.guest,
            Accelerator(node["accelerator"]),
            stack.enter_context(network_namespace("floor")),
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cube-floor-"))),
        )
        stack.push_async_callback(floors.close)
        step("filling the pool, and a small block to warm up")
        await Measurement(floors, pooled, unpooled, replace(plan, pairs=1, floor_samples=1)).block()
        for platform in (pooled, unpooled):
            platform.outcomes = Outcomes()
        measurement = Measurement(floors, pooled, unpooled, plan)
        blocks = 0
        while blocks < plan.least_blocks or (blocks < plan.blocks and time.monotonic() - begun < plan.budget_s):
            blocks += 1
            await measurement.block()
            step(f"block {blocks} of {plan.blocks}: {measurement.last_block()}; load average {_load()}")
        step("stopping")
    errors = pooled.outcomes.errors + unpooled.outcomes.errors
    facts: report.Document = {
        "attempts": pooled.outcomes.attempts + unpooled.outcomes.attempts,
        "failures": len(errors),
        "pool_misses": measurement.pool_misses,
        "blocks": blocks,
        "load_average_before": load_before,
        "load_average_after": _load(),
        "cpus": os.cpu_count(),
        "accelerator": node["accelerator"],
        "vmm": node["vmm"],
        "version": node["version"],
        "wall_s": round(time.monotonic() - begun),
    }
    report.show(console, measurement.series, facts)
    for error in errors[:10]:
        console.print(f"[red]{error}[/red]", markup=True, highlight=False)
    report.write(options.output, report.document(measurement.series, facts))
    console.print(f"written to {options.output}")
    return 1 if errors else 0


class _Steps:
    """Says what is being done, and how long after the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()

    def __call__(self, what: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._begun:5.0f} s[/dim]  {what}", highlight=False)


def _load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two blocks, for development")
    parser.add_argument("--blocks", type=int, help="how many blocks, however long they take")
    parser.add_argument("--guest", type=Path, default=ROOT / "build" / "guest", help="kernel, initramfs, agent disk")
    parser.add_argument("--image", type=Path, default=ROOT / "build" / "images" / "base", help="OCI layout")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    if options.blocks:
        plan = replace(plan, blocks=options.blocks, least_blocks=options.blocks)
    # Wide enough for the tables also where the output is a file.
    console = Console(width=None if sys.stdout.isatty() else 120)
    return asyncio.run(measure(console, options, plan))


if __name__ == "__main__":
    sys.exit(main())
