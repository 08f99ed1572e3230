"""Charts as inline SVG, coloured by `templates/charts.css`: curves over steps, dots with intervals, and profiles of models."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from components.pages.formats import Estimate, points

Point = tuple[float, float]

_TICKS = 5
_NO_DISTANCE = 1e-300  # a fifth of less is no number to take the logarithm of
_MOST_POINTS = 400
_SMOOTHING_SHARE = 25

_WIDTH = 520
_LINES_HEIGHT = 260
_LINES_LEFT, _LINES_RIGHT, _LINES_TOP, _LINES_BOTTOM = 56, 12, 12, 44
_DOTS_LEFT, _DOTS_RIGHT, _DOTS_TOP, _DOTS_AXIS = 20, 78, 2, 30
_PROFILE_RIGHT = 116
MODEL_COLOURS = 6
_LABEL, _DOT, _GAP = 22, 19, 8  # heights of a row's label and of each dot's line, and what stands between rows


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        points: (x, y), x ascending.
        style: Classes of the style sheet: "main", "faint", "second", or a page's own; "dashed" beside one of them.
        dots: Mark every point.
    """

    points: Sequence[Point]
    style: str = "main"
    dots: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart with what stands above it.

    Attributes:
        caption: What is drawn.
        chart: The chart.
        legend: (style, name) of every line that needs a name; without a style no colour is shown.
    """

    caption: str
    chart: Markup
    legend: Sequence[tuple[str, str]] = ()


def model_style(number: int) -> str:
    """Return the class of a model's colour (`templates/palette.css`); after six they come again."""
    return f"run-{number % MODEL_COLOURS}"


@dataclass(frozen=True)
class Dot:
    """A value with its interval.

    Attributes:
        estimate: Value and interval.
        style: Classes of the style sheet; "control" beside a colour draws it hollow.
        label: What it belongs to, for screen readers.
    """

    estimate: Estimate
    style: str
    label: str


@dataclass(frozen=True)
class DotRow:
    """Dots that share a label."""

    label: str
    dots: Sequence[Dot]


@dataclass(frozen=True)
class ProfileRow:
    """Values of several models on one line, over an axis of its own from zero.

    Attributes:
        label: What was measured.
        end: Where the axis ends.
        beside: What stands right of the line.
        dots: Values, the last one on top.
    """

    label: str
    end: float
    beside: str
    dots: Sequence[Dot]


def line_chart(title: str, x_label: str, series: Sequence[Series]) -> Markup:
    """Draw lines over shared axes; the y axis begins at zero or below.

    Args:
        title: For screen readers.
        x_label: What the x axis counts.
        series: Lines, drawn in their order; those without points are left out, long ones are thinned.

    Returns:
        An `<svg>` element that fills the width it is given; empty when there is nothing to draw.
    """
    drawn = [(line, thinned(line.points, _MOST_POINTS)) for line in series if line.points]
    if not drawn:
        return Markup("")
    xs = [x for _, kept in drawn for x, _ in kept]
    ys = [y for _, kept in drawn for _, y in kept]
    x_ticks = ticks(0.0, max(xs))
    y_ticks = ticks(min(0.0, *ys), max(ys))
    # A last tick just beyond the data is worth the little room.
    end = max(*xs, 1.0)
    x_end = x_ticks[-1] if x_ticks[-1] <= 1.05 * end else end
    right, bottom = _WIDTH - _LINES_RIGHT, _LINES_HEIGHT - _LINES_BOTTOM
    across = _scale(0.0, x_end, _LINES_LEFT, right)
    up = _scale(y_ticks[0], y_ticks[-1], bottom, _LINES_TOP)

    parts = []
    for value in y_ticks:
        y = up(value)
        parts.append(f'<line class="grid" x1="{_LINES_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(_text(_LINES_LEFT - 8, y + 4, tick_label(value, y_ticks), "end"))
    for value in x_ticks:
        if value <= x_end:
            parts.append(_text(across(value), bottom + 18, tick_label(value, x_ticks)))
    parts.append(_text((_LINES_LEFT + right) / 2, _LINES_HEIGHT - 6, x_label))
    for line, kept in drawn:
        placed = [(across(x), up(y)) for x, y in kept]
        style = escape(line.style)
        if len(placed) > 1:
            path = " ".join(f"{x},{y}" for x, y in placed)
            parts.append(f'<polyline class="line {style}" points="{path}"/>')
        if line.dots or len(placed) == 1:
            parts += [f'<circle class="dot {style}" cx="{x}" cy="{y}" r="3"/>' for x, y in placed]
    return _svg("lines", title, _WIDTH, _LINES_HEIGHT, parts)


def dot_chart(title: str, rows: Sequence[DotRow]) -> Markup:
    """Draw rows of dots over a shared axis that begins at zero or below.

    Args:
        title: For screen readers.
        rows: Rows from top to bottom, their dots one below the other.

    Returns:
        An `<svg>` element that fills the width it is given; empty without dots.
    """
    estimates = [dot.estimate for row in rows for dot in row.dots]
    if not estimates:
        return Markup("")
    low = min(0.0, *(one.value if one.low is None else one.low for one in estimates))
    marks = ticks(low, max(one.value if one.high is None else one.high for one in estimates))
    heights = [_LABEL + _DOT * len(row.dots) + _GAP for row in rows]
    right, bottom = _WIDTH - _DOTS_RIGHT, _DOTS_TOP + sum(heights)
    across = _scale(marks[0], marks[-1], _DOTS_LEFT, right)

    parts = []
    for value in marks:
        x = across(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_DOTS_TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 20, tick_label(value, marks)))
    top = _DOTS_TOP
    for row, height in zip(rows, heights, strict=True):
        parts.append(_text(_DOTS_LEFT, top + _LABEL - 4, row.label, "start", "row"))
        for number, dot in enumerate(row.dots):
            parts.append(_dot(dot, across, top + _LABEL + _DOT * (number + 0.5)))
        top += height
        if top < bottom:
            parts.append(f'<line class="grid" x1="{_DOTS_LEFT}" x2="{right}" y1="{top}" y2="{top}"/>')
    return _svg("dots", title, _WIDTH, bottom + _DOTS_AXIS, parts)


def profile_chart(title: str, rows: Sequence[ProfileRow]) -> Markup:
    """Draw a line of dots for every row, each over its own axis, so that scores of different scales stand below each other.

    Args:
        title: For screen readers.
        rows: Rows from top to bottom.

    Returns:
        An `<svg>` element that fills the width it is given; empty without rows.
    """
    if not rows:
        return Markup("")
    right, height = _WIDTH - _PROFILE_RIGHT, _LABEL + _DOT
    parts = []
    for number, row in enumerate(rows):
        top = _DOTS_TOP + number * height
        y = top + _LABEL + _DOT / 2
        across = _scale(0.0, row.end, _DOTS_LEFT, right)
        parts.append(_text(_DOTS_LEFT, top + _LABEL - 4, row.label, "start", "row"))
        parts.append(f'<line class="grid" x1="{_DOTS_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        for place in (_DOTS_LEFT, (_DOTS_LEFT + right) / 2, right):
            parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{y - 5}" y2="{y + 5}"/>')
        parts += [_dot(dot, across, y, written=False) for dot in row.dots]
        parts.append(_text(right + 8, y + 4, row.beside, "start"))
    return _svg("dots", title, _WIDTH, _DOTS_TOP + height * len(rows), parts)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers, some five of them, from at most `low` to at least `high`."""
    if high - low < _NO_DISTANCE:
        high = low + (abs(low) if abs(low) > _NO_DISTANCE else 1.0)
    raw = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1, 2, 2.5, 5, 10) if multiple * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, values: Sequence[float]) -> str:
    """Return a number as short as the distance between ticks allows; small ones with an exponent."""
    step = values[1] - values[0]
    if value == 0:
        return "0"
    if step < 1e-3:
        digits = max(0, math.floor(math.log10(abs(value))) - math.floor(math.log10(step) + 1e-9))
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits and round(step * 10**digits, 6) % 1:
        digits += 1
    return f"{value:,.{digits}f}"


def smoothed(curve: Sequence[Point], window: int | None = None) -> list[Point]:
    """Return the mean of the points around each one; fewer at the ends, always as many before as after.

    Args:
        curve: The points.
        window: Number of points that a mean is of; None for a 25th of all.
    """
    window = window or max(1, len(curve) // _SMOOTHING_SHARE)
    sums = [0.0, *itertools.accumulate(y for _, y in curve)]
    result = []
    for index, (x, _) in enumerate(curve):
        reach = min(window // 2, index, len(curve) - 1 - index)
        result.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return result


def thinned(curve: Sequence[Point], limit: int) -> list[Point]:
    """Return at most about `limit` points, the mean of equal stretches, so that a long run draws as fast as a short one."""
    if len(curve) <= limit:
        return list(curve)
    stride = math.ceil(len(curve) / limit)
    stretches = [curve[start : start + stride] for start in range(0, len(curve), stride)]
    return [(stretch[-1][0], sum(y for _, y in stretch) / len(stretch)) for stretch in stretches]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return what places a value of the axis from `low` to `high` between `start` and `end`."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _dot(dot: Dot, across: Callable[[float], float], y: float, written: bool = True) -> str:
    estimate, text = dot.estimate, points(dot.estimate.value)
    place = across(estimate.value)
    parts = [f'<g class="mark {escape(dot.style)}"><title>{escape(dot.label)}: {text}</title>']
    end = place
    if estimate.low is not None and estimate.high is not None:
        left, end = across(estimate.low), across(estimate.high)
        parts.append(f'<path class="whisker" d="M{left} {y}H{end}M{left} {y - 4}V{y + 4}M{end} {y - 4}V{y + 4}"/>')
    parts.append(f'<circle cx="{place}" cy="{y}" r="4.5"/>')
    if written:
        parts.append(_text(max(end, place + 5) + 8, y + 4, text, "start"))
    return "".join([*parts, "</g>"])


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(kind: str, title: str, width: int, height: int, parts: Sequence[str]) -> Markup:
    """Return the element: it is as wide as its place by itself, also in a frame that does not let a page's style in."""
    start = f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" width="100%" role="img" aria-label="{escape(title)}">'
    return Markup("".join([start, *parts, "</svg>"]))
