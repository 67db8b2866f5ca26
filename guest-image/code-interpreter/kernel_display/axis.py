"""What an axis of a matplotlib plot says of the numbers along it."""

import re
from typing import Any

from kernel_display.values import as_number

# "Speed (m/s)" and "Speed [m/s]".
_UNIT = re.compile(r"\s\((?P<round>[^()]+)\)|\[(?P<square>[^\[\]]+)\]")
# Formatters of plain numbers: their ticks are marks on a scale, not names of bars.
_NUMBER_FORMATTERS = ("ScalarFormatter", "LogFormatter", "LogFormatterSciNotation", "LogFormatterMathtext")


def labels_of(axes: Any, *, swapped: bool = False) -> dict[str, str | None]:
    first, second = axes.get_xlabel() or None, axes.get_ylabel() or None
    if swapped:
        first, second = second, first
    return {"x_label": first, "y_label": second, "x_unit": unit_in(first), "y_unit": unit_in(second)}


def unit_in(label: str | None) -> str | None:
    """Return the unit that a label names in brackets, if it does."""
    match = _UNIT.search(label or "")
    return None if match is None else match["round"] or match["square"]


def scales_of(axes: Any) -> dict[str, Any]:
    return {
        "x_ticks": _ticks(axes.xaxis),
        "x_tick_labels": _tick_labels(axes.xaxis),
        "x_scale": _scale(axes.xaxis),
        "y_ticks": _ticks(axes.yaxis),
        "y_tick_labels": _tick_labels(axes.yaxis),
        "y_scale": _scale(axes.yaxis),
    }


def value_on(axis: Any, number: float) -> Any:
    """Return what the user had at this number: a time, a category, or the number itself."""
    match _scale(axis):
        case "datetime":
            # matplotlib is loaded, or there were no axis.
            from matplotlib.dates import num2date  # noqa: PLC0415

            return num2date(number).replace(tzinfo=None).isoformat()
        case "categorical":
            return _categories(axis).get(round(number), as_number(number))
    return as_number(number)


def tick_text_at(axis: Any, number: float) -> str:
    """Return the name that the axis gives to a place: that of its nearest tick, if its ticks are names."""
    if type(axis.get_major_formatter()).__name__ in _NUMBER_FORMATTERS:
        return f"{number:g}"
    ticks = axis.get_majorticklocs()
    if len(ticks) == 0:
        return str(value_on(axis, number))
    nearest = min(range(len(ticks)), key=lambda each: abs(ticks[each] - number))
    return str(_tick_labels(axis)[nearest])


def _scale(axis: Any) -> str:
    converter = type(axis.get_converter() if hasattr(axis, "get_converter") else axis.converter).__name__
    if "Date" in converter or "Period" in converter or "Date" in type(axis.get_major_formatter()).__name__:
        return "datetime"
    if converter == "StrCategoryConverter":
        return "categorical"
    return str(axis.get_scale())


def _categories(axis: Any) -> dict[int, str]:
    return {place: name for name, place in axis.units._mapping.items()}


def _ticks(axis: Any) -> list[Any]:
    ticks = [float(tick) for tick in axis.get_majorticklocs()]
    return [value_on(axis, tick) for tick in ticks] if _scale(axis) == "datetime" else ticks


def _tick_labels(axis: Any) -> list[str]:
    return [str(label) for label in axis.get_major_formatter().format_ticks(axis.get_majorticklocs())]
