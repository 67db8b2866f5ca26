"""The numbers behind a box plot, measured on what is drawn: matplotlib keeps no others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernel_display.axis import tick_text_at
from kernel_display.values import as_number

_NEAR = 1e-9  # relative; whiskers start exactly at the box, but for rounding


@dataclass(frozen=True, slots=True)
class Stroke:
    """Points of a line or corners of a box, turned so that values run upwards and boxes lie side by side."""

    places: Sequence[float]
    values: Sequence[float]
    joined: bool = True  # false: bare markers, as outliers are

    @property
    def centre(self) -> float:
        return (min(self.places) + max(self.places)) / 2

    @property
    def runs_up(self) -> bool:
        return self.joined and len(self.places) == 2 and self.places[0] == self.places[1]

    @property
    def runs_across(self) -> bool:
        return self.joined and len(self.places) == 2 and self.values[0] == self.values[1]

    def is_beside(self, box: "Stroke") -> bool:
        """Tell whether it lies in the strip of the box."""
        return bool(self.places) and min(box.places) <= self.centre <= max(box.places)

    def is_whisker_of(self, box: "Stroke") -> bool:
        edges = (min(box.values), max(box.values))
        return (
            self.runs_up
            and _near(self.centre, box.centre)
            and any(_near(end, edge) for end in self.values for edge in edges)
        )


def read(axes: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the boxes, and whether they lie horizontally."""
    upright = _strokes(axes, turned=False)
    turned = _strokes(axes, turned=True)
    horizontal = _whiskers(*turned) > _whiskers(*upright)
    boxes, lines = turned if horizontal else upright
    axis = axes.yaxis if horizontal else axes.xaxis
    return [
        {"label": tick_text_at(axis, box.centre), **_summary(box, [line for line in lines if line.is_beside(box)])}
        for box in boxes
    ], horizontal


def _summary(box: Stroke, lines: Sequence[Stroke]) -> dict[str, Any]:
    first_quartile, third_quartile = min(box.values), max(box.values)
    whisker_ends = [value for line in lines if line.is_whisker_of(box) for value in line.values]
    # The caps are drawn before the median, and may touch the box as it does.
    medians = [
        line.values[0] for line in lines if line.runs_across and first_quartile <= line.values[0] <= third_quartile
    ]
    outliers = [value for line in lines if not line.joined for value in line.values]
    return {
        "min": as_number(min([first_quartile, *whisker_ends])),
        "first_quartile": as_number(first_quartile),
        "median": as_number(medians[-1]) if medians else None,
        "third_quartile": as_number(third_quartile),
        "max": as_number(max([third_quartile, *whisker_ends])),
        "outliers": outliers,
    }


def _whiskers(boxes: Sequence[Stroke], lines: Sequence[Stroke]) -> int:
    return sum(line.is_whisker_of(box) for box in boxes for line in lines)


def _strokes(axes: Any, *, turned: bool) -> tuple[list[Stroke], list[Stroke]]:
    boxes = [_stroke(*patch.get_path().vertices.T, turned=turned) for patch in axes.patches]
    lines = [
        _stroke(
            line.get_xdata(orig=False),
            line.get_ydata(orig=False),
            turned=turned,
            joined=line.get_linestyle() not in ("None", "none", " ", ""),
        )
        for line in axes.lines
    ]
    return boxes, lines


def _stroke(xs: Any, ys: Any, *, turned: bool, joined: bool = True) -> Stroke:
    places, values = (ys, xs) if turned else (xs, ys)
    return Stroke([float(each) for each in places], [float(each) for each in values], joined)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR * max(abs(one), abs(other), 1.0)
