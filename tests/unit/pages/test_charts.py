"""Charts and bars: axes, scales, and elements that a page or a picture file can hold."""

from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.pages.bars import BarRow, bars
from components.pages.charts import (
    Dot,
    DotRow,
    Series,
    dot_chart,
    line_chart,
    smoothed,
    thinned,
    tick_label,
    ticks,
)
from tests.support.html_pages import HOSTILE

finite = st.floats(-1e6, 1e6)


@dataclass(frozen=True)
class Value:
    """A value with its interval, as the metrics' own are."""

    value: float
    low: float | None = None
    high: float | None = None


@st.composite
def estimates(draw: st.DrawFn) -> Value:
    low, value, high = sorted(draw(st.tuples(finite, finite, finite)))
    return Value(value, low, high) if draw(st.booleans()) else Value(value)


def inside(chart: str) -> ElementTree.Element:
    """Parse a chart; every place in it lies within its view box."""
    root = ElementTree.fromstring(chart)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.attrib["width"] == "100%"
    assert "height" not in root.attrib  # it follows from the shape of the view box
    for element in root.iter():
        places = [
            (element.attrib.get(x, 0), element.attrib.get(y, 0))
            for x, y in (("x", "y"), ("cx", "cy"), ("x1", "y1"), ("x2", "y2"))
        ]
        places += [tuple(point.split(",")) for point in element.attrib.get("points", "").split()]
        for x, y in places:
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
    return root


@given(finite, st.floats(1e-9, 1e6))
def test_ticks_enclose_the_range_with_a_readable_number_of_steps(low: float, span: float) -> None:
    values = ticks(low, low + span)
    step = values[1] - values[0]
    assert 2 <= len(values) <= 8
    assert values[0] <= low + 1e-6 * step + 1e-9
    assert values[-1] >= low + span - 1e-6 * step - 1e-9


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 8, ["0", "2", "4", "6", "8"]),
        (0, 1e-3, ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1e-3"]),
        (0, 1.2, ["0", "0.25", "0.50", "0.75", "1.00", "1.25"]),
        (0, 20_000, ["0", "5,000", "10,000", "15,000", "20,000"]),
    ],
)
def test_tick_labels_are_short_and_distinct(low: float, high: float, labels: list[str]) -> None:
    values = ticks(low, high)
    assert [tick_label(value, values) for value in values] == labels


@pytest.mark.parametrize("value", [0.0, 5e-324, -5e-324, 1e-310, 1e-300, 3.0, -1e300])
def test_one_value_and_what_floats_hardly_tell_from_it_have_ticks(value: float) -> None:
    for low, high in ((value, value), (min(value, 0.0), max(value, 0.0))):
        values = ticks(low, high)
        assert 2 <= len(values) <= 8
        step = values[1] - values[0]
        assert values[0] <= low + 1e-6 * step
        assert values[-1] >= high - 1e-6 * step


def test_charts_of_nothing_one_point_and_constant_lines() -> None:
    assert line_chart("t", "step", [Series([])]) == ""
    assert dot_chart("t", []) == dot_chart("t", [DotRow("model", [])]) == ""
    assert "<circle" in line_chart("t", "step", [Series([(1, 2.0)])])
    assert "nan" not in line_chart("<t>", "step", [Series([(1, 0.0), (2, 0.0)])])


@given(st.lists(st.lists(finite, max_size=40), max_size=4))
def test_every_line_lies_within_its_chart(lines: list[list[float]]) -> None:
    chart = line_chart("t", "step", [Series([(float(x), y) for x, y in enumerate(line)], dots=True) for line in lines])
    if any(lines):
        root = inside(chart)
        assert len(root.findall("circle")) == sum(map(len, lines))
    else:
        assert chart == ""


@given(st.lists(st.lists(estimates(), min_size=1, max_size=3), min_size=1, max_size=4))
def test_dots_lie_within_their_chart_in_the_order_of_their_values(rows: list[list[Value]]) -> None:
    root = inside(dot_chart("t", [DotRow("row", [Dot(value, "main", "run") for value in row]) for row in rows]))
    values = [value.value for row in rows for value in row]
    places = [float(circle.attrib["cx"]) for circle in root.iter("circle")]
    assert len(places) == len(values)
    ordered = [place for _, place in sorted(zip(values, places, strict=True))]
    assert all(left <= right for left, right in pairwise(ordered))


def test_charts_escape_names() -> None:
    dots = dot_chart(HOSTILE, [DotRow(HOSTILE, [Dot(Value(1.0), HOSTILE, HOSTILE)])])
    lines = line_chart(HOSTILE, HOSTILE, [Series([(1, 1.0), (2, 2.0)], HOSTILE, dots=True)])
    for chart in (dots, lines):
        root = inside(chart)
        assert {element.tag for element in root.iter()} <= {"svg", "g", "title", "text", "line", "circle", "polyline"}
        assert root.attrib["aria-label"] == HOSTILE
        assert HOSTILE in [element.text for element in root.iter("text")]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200), st.integers(1, 30))
def test_smoothing_and_thinning_keep_range_and_end(values: list[float], window: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    for result in (smoothed(points, window), smoothed(points), thinned(points, 25)):
        assert result[-1][0] == points[-1][0]
        assert min(values) - 1e-9 <= min(y for _, y in result)
        assert max(y for _, y in result) <= max(values) + 1e-9
    assert len(thinned(points, 25)) <= 25


def test_a_long_run_draws_as_fast_as_a_short_one() -> None:
    chart = line_chart("t", "step", [Series([(float(step), 1.0 / step) for step in range(1, 100_001)])])
    assert len(chart) < 10_000


@given(st.lists(estimates(), max_size=5), st.sampled_from([None, 100.0]))
def test_bars_and_their_intervals_stay_on_the_axis(values: list[Value], full_scale: float | None) -> None:
    placed = bars([BarRow("model", value) for value in values], full_scale)
    assert [bar.row.estimate for bar in placed] == values
    for bar in placed:
        assert 0 <= bar.width <= 100
        if bar.span_left is not None and bar.span_width is not None:
            assert 0 <= bar.span_left <= bar.span_left + bar.span_width <= 100.01


def test_bars_end_at_the_scale_or_at_a_round_number() -> None:
    rows = [BarRow("model", Value(40.0, 30.0, 48.0)), BarRow("blank", Value(10.0), own=False)]
    assert [bar.width for bar in bars(rows, 100.0)] == [40.0, 10.0]
    assert [(bar.width, bar.span_left, bar.span_width) for bar in bars(rows)] == [
        (80.0, 60.0, 36.0),
        (20.0, None, None),
    ]
