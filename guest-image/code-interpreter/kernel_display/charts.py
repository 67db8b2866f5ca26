"""The chart that a matplotlib figure shows, read from the artists on its axes."""

from collections.abc import Callable
from typing import Any

from kernel_display import boxes
from kernel_display.axis import labels_of, scales_of, tick_text_at, value_on
from kernel_display.values import as_number

Chart = dict[str, Any]


def figure_to_chart(figure: Any) -> Chart | None:
    """Return the chart of a figure, a superchart for several axes, or nothing for a blank figure."""
    all_axes = figure.get_axes()
    if not any(_artists(axes) for axes in all_axes):
        return None
    charts = [axes_to_chart(axes) for axes in all_axes]
    if len(charts) == 1:
        return charts[0]
    return {"type": "superchart", "title": figure.get_suptitle() or None, "elements": charts}


def axes_to_chart(axes: Any) -> Chart:
    """Return the chart of one pair of axes: the kind that all its artists make up, else `unknown`."""
    title = axes.get_title() or None
    for kind, makes_up, read in _KINDS:
        if makes_up(axes):
            return {"type": kind, "title": title, **read(axes)}
    return {"type": "unknown", "title": title, "elements": []}


def _artists(axes: Any) -> list[Any]:
    """Return what the user drew; axis, frame, background and texts are not that."""
    return [*axes.lines, *axes.patches, *axes.collections, *axes.images, *axes.tables, *axes.artists]


def _is_guide(axes: Any, artist: Any) -> bool:
    """Tell whether an artist is a line across the axes (axhline, axvline), which has no data of its own."""
    return artist in axes.lines and artist.get_transform() is not axes.transData


def _only(*class_names: str) -> Callable[[Any], bool]:
    """Return a test that all artists are of these classes. Classes are named: nothing is imported for it."""

    def makes_up(axes: Any) -> bool:
        drawn = [artist for artist in _artists(axes) if not _is_guide(axes, artist)]
        return bool(drawn) and all(type(artist).__name__ in class_names for artist in drawn)

    return makes_up


def _line(axes: Any) -> Chart:
    lines = [line for line in axes.lines if not _is_guide(axes, line)]
    elements = []
    for number, line in enumerate(lines):
        # As it was given, before matplotlib made numbers of dates and names.
        xs, ys = line.get_xdata(orig=True), line.get_ydata(orig=True)
        points = [[as_number(x), as_number(y)] for x, y in zip(xs, ys, strict=False)]
        elements.append({"label": _name(line, "Line", number), "points": points})
    return {**labels_of(axes), **scales_of(axes), "elements": elements}


def _scatter(axes: Any) -> Chart:
    elements = []
    for number, collection in enumerate(axes.collections):
        points = [[value_on(axes.xaxis, float(x)), value_on(axes.yaxis, float(y))] for x, y in collection.get_offsets()]
        elements.append({"label": _name(collection, "Scatter", number), "points": points})
    return {**labels_of(axes), **scales_of(axes), "elements": elements}


def _bar(axes: Any) -> Chart:
    elements = []
    horizontal = False
    for number, container in enumerate(axes.containers):
        horizontal = getattr(container, "orientation", None) == "horizontal"
        for bar in container.patches:
            if horizontal:
                label = tick_text_at(axes.yaxis, bar.get_y() + bar.get_height() / 2)
                value = bar.get_width()
            else:
                label = tick_text_at(axes.xaxis, bar.get_x() + bar.get_width() / 2)
                value = bar.get_height()
            group = _name(container, "Group", number)
            elements.append({"label": label, "group": group, "value": as_number(value)})
    # The axis with the bars' names comes first, however the bars lie.
    return {**labels_of(axes, swapped=horizontal), "elements": elements}


def _pie(axes: Any) -> Chart:
    return {
        "elements": [
            {
                "label": wedge.get_label(),
                "angle": as_number(abs(wedge.theta2 - wedge.theta1)),
                "radius": as_number(wedge.r),
            }
            for wedge in axes.patches
        ]
    }


def _box_and_whisker(axes: Any) -> Chart:
    elements, horizontal = boxes.read(axes)
    return {**labels_of(axes, swapped=horizontal), "elements": elements}


def _name(artist: Any, kind: str, number: int) -> str:
    """Return the label that the user gave; matplotlib's own begin with an underscore."""
    label = str(artist.get_label())
    return f"{kind} {number}" if label.startswith("_") else label


_KINDS: tuple[tuple[str, Callable[[Any], bool], Callable[[Any], Chart]], ...] = (
    ("line", _only("Line2D"), _line),
    ("box_and_whisker", _only("PathPatch", "Line2D"), _box_and_whisker),
    ("scatter", _only("PathCollection"), _scatter),
    ("pie", _only("Wedge"), _pie),
    ("bar", _only("Rectangle"), _bar),
)
