"""What is made of measurements: pure, so that it can be checked by eye and by test.

Machines differ and so do their busy moments. What is compared is therefore always measured in the same block, minutes
at most from each other, and what is reported of it is the median of the blocks' ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all do not exceed. Of no values: nan."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass
class Series:
    """Measurements of one thing by block: durations in ms, amounts in MiB."""

    name: str
    blocks: list[list[float]] = field(default_factory=list)

    def begin_block(self) -> None:
        self.blocks.append([])

    def add(self, value: float) -> None:
        self.blocks[-1].append(value)

    @property
    def values(self) -> list[float]:
        return [value for block in self.blocks for value in block]

    @property
    def p50(self) -> float:
        return median(self.values) if self.values else math.nan

    @property
    def p95(self) -> float:
        return percentile(self.values, 95)


def ratio(above: Series, below: Series, *, above_percent: float = 50) -> float:
    """Return the median over the blocks of `above`'s percentile to `below`'s median. Without a common block: nan."""
    ratios = [
        percentile(one, above_percent) / median(other) if above_percent != 50 else median(one) / median(other)
        for one, other in zip(above.blocks, below.blocks, strict=False)
        if one and other
    ]
    return median(ratios) if ratios else math.nan


def total(*terms: tuple[float, Series], constant: float = 0) -> Series:
    """Return, of each block, the weighted sum of the terms' medians and `constant`; nothing where a term has none."""
    blocks = zip(*(series.blocks for _, series in terms), strict=False)
    weights = [weight for weight, _ in terms]
    return Series(
        "total",
        [
            [constant + sum(weight * median(values) for weight, values in zip(weights, block, strict=True))]
            if all(block)
            else []
            for block in blocks
        ],
    )
