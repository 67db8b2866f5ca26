"""What it costs to keep a running sandbox, as it is, and to have it again: pause, resume, fork, snapshot.

All by the way that creates are measured by, on the appliance without a pool: what is compared clones on demand, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.benchmarks.figures import Series
from tests.benchmarks.platform import Created, Platform, Way

_SETTLED_S = 0.5

NAMES = ("pause", "resume", "fork", "snapshot_start", "changed", "kept")


async def keep(platform: Platform, series: Mapping[str, Series], *, times: int) -> None:
    """Add to the series `NAMES` what each call took for `times` sandboxes that have run a command. Those end here."""
    for _ in range(times):
        sandbox = await platform.create(Way.PROXY)
        if sandbox is None:
            continue
        await platform.run_true(sandbox)
        await _copied(platform, series, sandbox)
        await _paused(platform, series, sandbox)
        await platform.kill([sandbox])


async def _copied(platform: Platform, series: Mapping[str, Series], sandbox: Created) -> None:
    copy = await platform.fork(Way.PROXY, sandbox)
    if copy is not None:
        series["fork"].add(copy.ms)
        await platform.kill([copy])
    snapshot = await platform.snapshot(sandbox)
    if snapshot is None:
        return
    started = await platform.create(Way.PROXY, snapshot)
    if started is not None:
        series["snapshot_start"].add(started.ms)
        await platform.kill([started])
    await platform.delete_snapshot(snapshot)


async def _paused(platform: Platform, series: Mapping[str, Series], sandbox: Created) -> None:
    # What the calls before have left to do in the guest shall not count as done by the pause.
    await asyncio.sleep(_SETTLED_S)
    changed_mib = platform.changed_mib(sandbox)
    paused_ms = await platform.pause(Way.PROXY, sandbox)
    if paused_ms is None:
        return
    kept_mib = platform.kept_mib(sandbox)
    resumed_ms = await platform.resume(Way.PROXY, sandbox)
    if resumed_ms is None:
        return
    for name, value in {"pause": paused_ms, "resume": resumed_ms, "changed": changed_mib, "kept": kept_mib}.items():
        series[name].add(value)
