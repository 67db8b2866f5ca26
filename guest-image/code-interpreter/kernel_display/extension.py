"""Adds the sandbox's representations to IPython's display of values."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from kernel_display.charts import figure_to_chart
from kernel_display.frames import frame_to_dict
from kernel_display.images import patch_image, patch_viewers
from kernel_display.on_import import patch_on_import

_CJK_FONT = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")
_MATPLOTLIB_SETTINGS = Path(__file__).with_name("matplotlibrc")


class DataFormatter(BaseFormatter):  # type: ignore[misc]
    """`e2b/data`: the values of a table."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):  # type: ignore[misc]
    """`e2b/chart`: what a figure says, for clients that draw it themselves."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict


def install(shell: Any) -> None:
    """Register everything with the shell. Types are named, not imported: see the package."""
    display_formatter = shell.display_formatter
    data = DataFormatter(parent=display_formatter)
    data.for_type_by_name("pandas.core.frame", "DataFrame", frame_to_dict)
    data.for_type_by_name("pandas", "DataFrame", frame_to_dict)  # where pandas 3 says that it is from
    for formatter in (data, ChartFormatter(parent=display_formatter)):
        display_formatter.formatters[formatter.format_type] = formatter

    json_formatter = display_formatter.formatters["application/json"]
    for kind in (dict, list):
        json_formatter.for_type(kind, _json_value)

    patch_on_import({"matplotlib.figure": _patch_figure, "PIL.Image": patch_image, "PIL.ImageShow": patch_viewers})
    if _CJK_FONT.exists():
        # Only where the font is: matplotlib warns in every plot of one that is missing.
        os.environ.setdefault("MATPLOTLIBRC", str(_MATPLOTLIB_SETTINGS))


def _patch_figure(module: ModuleType) -> None:
    # By method: matplotlib's inline backend takes Figure out of every formatter when it chooses its own formats.
    module.Figure._repr_e2b_chart_ = figure_to_chart


def _json_value(value: dict[Any, Any] | list[Any]) -> Any:
    """Return the value as JSON has it, or nothing if it does not fit."""
    # Imported with the first value: most kernels in a snapshot have shown none yet.
    import orjson  # noqa: PLC0415

    try:
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
    except TypeError:
        return None
