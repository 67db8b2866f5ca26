"""The figures as a document for machines and as a picture for people, targets beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Series, ratio, total

_BAR_WIDTH = 40
_BAR_SPAN = 2000

Document = dict[str, object]

_TITLES = {
    "cold_boot": "C1 cold boot",
    "floor_restore": "F0 bare restore",
    "floor_claim": "F1 bare claim",
    "full_save": "bare save of all RAM",
    "create_pool_hit": "create, pool hit",
    "create_pool_hit_api": "  without CubeProxy",
    "create_pool_hit_c5": "  5 at once",
    "create_pool_hit_c5_api": "  5 at once, without CubeProxy",
    "create_on_demand": "create, on demand",
    "create_on_demand_api": "  without CubeProxy",
    "create_on_demand_c5": "  5 at once",
    "create_on_demand_c5_api": "  5 at once, without CubeProxy",
    "first_exec": "first command of a sandbox",
    "warm_exec": "its third",
    "pause": "pause",
    "resume": "resume",
    "fork": "fork",
    "snapshot_start": "create from a snapshot",
    "changed": "RAM changed and disk used before the pause",
    "kept": "disk taken by the pause",
}
_AMOUNTS = ("changed", "kept")
"""Series in MiB."""


@dataclass(frozen=True)
class Target:
    """A bound on a ratio: nothing absolute is promised of an unknown host."""

    name: str
    key: str
    what: str
    measured: Callable[[Mapping[str, Series]], float]
    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


TARGETS = (
    Target(
        "T1",
        "ratio_pool_hit_to_claim",
        "create p50, pool hit / F1",
        lambda of: ratio(of["create_pool_hit"], of["floor_claim"]),
        2.5,
    ),
    Target(
        "T1",
        "ratio_cold_boot_to_pool_hit",
        "C1 / create p50, pool hit",
        lambda of: ratio(of["cold_boot"], of["create_pool_hit"]),
        80,
        at_least=True,
    ),
    Target(
        "T2",
        "ratio_pool_hit_c5_p95_to_c1_p50",
        "create p95, pool hit, 5 at once / p50, one at a time (asked: p99, 10 at once)",
        lambda of: ratio(of["create_pool_hit_c5"], of["create_pool_hit"], above_percent=95),
        6,
    ),
    Target(
        "T3",
        "ratio_on_demand_to_restore",
        "create p50, on demand / F0",
        lambda of: ratio(of["create_on_demand"], of["floor_restore"]),
        1.25,
    ),
    Target(
        "T3",
        "ratio_cold_boot_to_on_demand",
        "C1 / create p50, on demand",
        lambda of: ratio(of["cold_boot"], of["create_on_demand"]),
        18,
        at_least=True,
    ),
    Target(
        "T13",
        "ratio_first_exec_to_warm_exec",
        "first command after a create / a warm one",
        lambda of: ratio(of["first_exec"], of["warm_exec"]),
        1.5,
    ),
    Target(
        "T8",
        "ratio_paused_disk_to_changed",
        "disk of a paused sandbox / what it changed + 64 KiB",
        lambda of: ratio(of["kept"], total((1, of["changed"]), constant=1 / 16)),
        1,
    ),
    Target(
        "T9",
        "ratio_pause_to_changed",
        "pause / 15 ms + 1.5 ms a MiB changed",
        lambda of: ratio(of["pause"], total((1.5, of["changed"]), constant=15)),
        1,
    ),
    Target(
        "T9",
        "ratio_full_save_to_pause",
        "bare save of all RAM / pause",
        lambda of: ratio(of["full_save"], of["pause"]),
        10,
        at_least=True,
    ),
    Target(
        "T10",
        "ratio_resume_to_on_demand",
        "resume / 1.2 x create on demand + 1 ms a MiB changed",
        lambda of: ratio(of["resume"], total((1.2, of["create_on_demand"]), (1, of["changed"]))),
        1,
    ),
    Target(
        "T10",
        "ratio_snapshot_start_to_on_demand",
        "create from a snapshot / the same",
        lambda of: ratio(of["snapshot_start"], total((1.2, of["create_on_demand"]), (1, of["changed"]))),
        1,
    ),
    Target(
        "T11",
        "ratio_fork_to_pause_and_on_demand",
        "fork / pause + 1.2 x create on demand",
        lambda of: ratio(of["fork"], total((1, of["pause"]), (1.2, of["create_on_demand"]))),
        1,
    ),
)


def document(series: Mapping[str, Series], facts: Document) -> Document:
    """Return all figures under stable names; what was not measured is null."""
    figures: Document = {}
    for name, one in series.items():
        if name in ("cold_boot", "floor_restore", "floor_claim", "full_save"):
            figures[f"{name}_ms"] = _number(one.p50)
        elif name in _AMOUNTS:
            figures[f"{name}_p50_mib"] = _number(one.p50)
        else:
            figures[f"{name}_p50_ms"] = _number(one.p50)
            figures[f"{name}_p95_ms"] = _number(one.p95)
        figures[f"{name}_samples"] = len(one.values)
    for target in TARGETS:
        value = target.measured(series)
        figures[target.key] = _number(value)
        figures[f"{target.key}_target"] = target.bound
        figures[f"{target.key}_met"] = target.met(value)
    return {**figures, **facts}


def write(path: Path, figures: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")


def show(console: Console, series: Mapping[str, Series], facts: Document) -> None:
    """Print what was measured, then what it is worth."""
    durations = Table(title="Durations", title_justify="left")
    durations.add_column("")
    for column in ("p50 ms", "p95 ms", "n"):
        durations.add_column(column, justify="right")
    durations.add_column("p50 (logarithmic)", min_width=_BAR_WIDTH)
    whole = series["cold_boot"].p50
    for name, one in series.items():
        if name in _AMOUNTS:
            continue
        bar = _bar(one.p50 / whole) if whole and not math.isnan(one.p50) else ""
        durations.add_row(_TITLES[name], f"{one.p50:.1f}", f"{one.p95:.1f}", str(len(one.values)), bar)
    console.print(durations)
    amounts = ", ".join(f"{_TITLES[name]} {series[name].p50:.1f} MiB" for name in _AMOUNTS)
    console.print(f"{amounts}; medians", highlight=False)

    ratios = Table(title="Ratios, medians over the blocks", title_justify="left")
    ratios.add_column("target")
    ratios.add_column("")
    for column in ("measured", "wanted", ""):
        ratios.add_column(column, justify="right")
    for target in TARGETS:
        value = target.measured(series)
        verdict = "[green]met[/green]" if target.met(value) else "[yellow]missed[/yellow]"
        sign = ">=" if target.at_least else "<="
        ratios.add_row(target.name, target.what, f"{value:.2f}", f"{sign} {target.bound:g}", verdict)
    console.print(ratios)
    console.print(
        f"{facts['attempts']} creates, {facts['failures']} failures, {facts['pool_misses']} meant for the pool and "
        f"cloned; load average {facts['load_average_before']} before, {facts['load_average_after']} after, on "
        f"{facts['cpus']} processors; {facts['vmm']} with {facts['accelerator']}, {facts['wall_s']} s"
    )


def _bar(share: float) -> str:
    """Draw a share on a logarithmic scale from 1/2000 to 1: what is compared differs a thousandfold."""
    filled = round(_BAR_WIDTH * (1 + math.log10(max(share, 1 / _BAR_SPAN)) / math.log10(_BAR_SPAN)))
    return "█" * max(1, min(filled, _BAR_WIDTH))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
