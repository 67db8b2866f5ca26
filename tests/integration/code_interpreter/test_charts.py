"""Charts as clients get them: drawn by the matplotlib that the image has."""

import datetime
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import (
    BarChart,
    BoxAndWhiskerChart,
    Chart,
    LineChart,
    PieChart,
    ScatterChart,
    SuperChart,
)

NUMBERED_SCALE = {"x_scale": "linear", "y_scale": "linear"}


def draw(sandbox: Sandbox, code: str) -> Chart:
    execution = sandbox.run_code(
        f"import numpy as np, pandas as pd, datetime as dt\nimport matplotlib.pyplot as plt\n{code}\nplt.show()"
    )
    assert execution.error is None
    (result,) = execution.results
    assert result.png is not None
    assert result.chart is not None
    chart: Chart = result.chart
    return chart


def raw(chart: Chart) -> dict[str, Any]:
    fields: dict[str, Any] = chart.to_dict()
    return fields


def test_lines(sandbox: Sandbox) -> None:
    chart = draw(
        sandbox,
        "plt.plot([1, 2], [3, 4.5], label='named')\nplt.plot([1, 2], [0, 1])\nplt.grid(True)\n"
        "plt.xlabel('Time (s)')\nplt.ylabel('Way [m]')\nplt.title('Title')",
    )
    assert isinstance(chart, LineChart)
    assert chart.title == "Title"
    assert (chart.x_label, chart.x_unit, chart.y_label, chart.y_unit) == ("Time (s)", "s", "Way [m]", "m")
    assert [(line.label, line.points) for line in chart.elements] == [
        ("named", [(1.0, 3.0), (2.0, 4.5)]),
        ("Line 1", [(1.0, 0.0), (2.0, 1.0)]),
    ]
    assert NUMBERED_SCALE.items() <= raw(chart).items()
    assert all(isinstance(tick, float) for tick in chart.x_ticks + chart.y_ticks)
    assert len(chart.x_tick_labels) == len(chart.x_ticks)


def test_lines_over_time(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.plot([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 3)], [1, 2])")
    assert isinstance(chart, LineChart)
    assert chart.x_scale == "datetime"
    assert [x for x, _ in chart.elements[0].points] == ["2024-01-01T00:00:00", "2024-01-03T00:00:00"]
    assert all(datetime.datetime.fromisoformat(str(tick)).year == 2024 for tick in chart.x_ticks)


def test_lines_over_periods_of_pandas(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "pd.DataFrame({'a': [1, 2]}, index=pd.date_range('2024-01-01', periods=2)).plot()")
    assert isinstance(chart, LineChart)
    assert [(line.label, line.points) for line in chart.elements] == [("a", [("2024-01-01", 1.0), ("2024-01-02", 2.0)])]


@pytest.mark.parametrize("scale", ["log", "symlog", "asinh", "logit"])
def test_scales(sandbox: Sandbox, scale: str) -> None:
    chart = draw(sandbox, f"plt.plot([0.1, 0.9], [1, 2])\nplt.xscale({scale!r})")
    assert isinstance(chart, LineChart)
    assert chart.x_scale == scale


@pytest.mark.parametrize("scale", ["function", "functionlog"])
def test_scales_of_the_users_own(sandbox: Sandbox, scale: str) -> None:
    chart = draw(sandbox, f"plt.plot([1, 2], [1, 2])\nplt.xscale({scale!r}, functions=(lambda x: x, lambda x: x))")
    assert isinstance(chart, LineChart)
    assert chart.x_scale == scale


def test_categories(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.plot(['a', 'b'], [1, 2])")
    assert isinstance(chart, LineChart)
    assert chart.x_scale == "categorical"
    assert chart.elements[0].points == [("a", 1.0), ("b", 2.0)]


def test_scatter(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.scatter([1, 2], [3, 4], label='one')\nplt.scatter([5], [6])\nplt.axhline(1)")
    assert isinstance(chart, ScatterChart)
    assert [(each.label, each.points) for each in chart.elements] == [
        ("one", [(1.0, 3.0), (2.0, 4.0)]),
        ("Scatter 1", [(5.0, 6.0)]),
    ]


def test_scatter_of_categories_over_time(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.scatter([dt.date(2024, 1, 1), dt.date(2024, 1, 2)], ['a', 'b'])")
    assert isinstance(chart, ScatterChart)
    assert chart.elements[0].points == [("2024-01-01T00:00:00", "a"), ("2024-01-02T00:00:00", "b")]


def test_bars(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.bar(['a', 'b'], [1, 2])\nplt.xlabel('Who')\nplt.ylabel('Books (n)')")
    assert isinstance(chart, BarChart)
    assert (chart.x_label, chart.y_label, chart.y_unit) == ("Who", "Books (n)", "n")
    assert [(bar.label, bar.group, bar.value) for bar in chart.elements] == [
        ("a", "Group 0", 1.0),
        ("b", "Group 0", 2.0),
    ]


def test_bars_that_lie(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.barh(['a', 'b'], [1, 2])\nplt.xlabel('Books (n)')\nplt.ylabel('Who')")
    assert isinstance(chart, BarChart)
    assert (chart.x_label, chart.y_label, chart.y_unit) == ("Who", "Books (n)", "n")
    assert [(bar.label, bar.value) for bar in chart.elements] == [("a", 1.0), ("b", 2.0)]


def test_bars_in_groups(sandbox: Sandbox) -> None:
    chart = draw(
        sandbox,
        "x = np.arange(2)\nplt.bar(x - .2, [1, 2], .4, label='m')\nplt.bar(x + .2, [3, 4], .4)\n"
        "plt.xticks(x, ['q', 'r'])",
    )
    assert isinstance(chart, BarChart)
    assert [(bar.label, bar.group, bar.value) for bar in chart.elements] == [
        ("q", "m", 1.0),
        ("r", "m", 2.0),
        ("q", "Group 1", 3.0),
        ("r", "Group 1", 4.0),
    ]


def test_bars_over_numbers_are_named_by_them(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.bar([1, 2.5], [3, 4])")
    assert isinstance(chart, BarChart)
    assert [bar.label for bar in chart.elements] == ["1", "2.5"]


def test_pie(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.pie([30, 70], labels=['a', 'b'])\nplt.title('Title')")
    assert isinstance(chart, PieChart)
    assert chart.title == "Title"
    assert [(each.label, round(each.angle), each.radius) for each in chart.elements] == [
        ("a", 108, 1.0),
        ("b", 252, 1.0),
    ]


@pytest.mark.parametrize("orientation", ["vertical", "horizontal"])
def test_boxes(sandbox: Sandbox, orientation: str) -> None:
    value_axis = "y" if orientation == "vertical" else "x"
    chart = draw(
        sandbox,
        "plt.boxplot([[1, 2, 3, 4, 20], [5, 6, 7, 8]], tick_labels=['a', 'b'], patch_artist=True, "
        f"orientation={orientation!r})\nplt.{value_axis}label('Value (u)')",
    )
    assert isinstance(chart, BoxAndWhiskerChart)
    assert (chart.x_label, chart.y_label, chart.y_unit) == (None, "Value (u)", "u")
    summaries = [
        (box.label, box.min, box.first_quartile, box.median, box.third_quartile, box.max) for box in chart.elements
    ]
    assert summaries == [("a", 1.0, 2.0, 3.0, 4.0, 4.0), ("b", 5.0, 5.75, 6.5, 7.25, 8.0)]
    assert [box.outliers for box in chart.elements] == [[20.0], []]


def test_several_axes_are_a_superchart(sandbox: Sandbox) -> None:
    chart = draw(
        sandbox,
        "figure, (one, other) = plt.subplots(1, 2)\none.plot([1, 2], [3, 4])\nother.bar(['x'], [1])\n"
        "figure.suptitle('Both')",
    )
    assert isinstance(chart, SuperChart)
    assert chart.title == "Both"
    assert [type(element) for element in chart.elements] == [LineChart, BarChart]


def test_a_mixture_is_unknown(sandbox: Sandbox) -> None:
    chart = draw(sandbox, "plt.plot([1, 2])\nplt.bar([1], [2])\nplt.title('Mixed')")
    assert raw(chart) == {"type": "unknown", "title": "Mixed", "elements": []}


def test_a_blank_figure_is_no_chart(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import matplotlib.pyplot as plt\nplt.figure()\nplt.axes()\nplt.show()")
    assert [result.chart for result in execution.results] == [None]
