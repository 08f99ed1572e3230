"""Line charts as inline SVG, coloured by the page's style sheet."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 44
_TICKS = 5


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Shown in the legend; empty for none.
        points: (x, y), x ascending.
        style: Class of the style sheet: "main", "faint" or "second".
        dots: Mark every point.
    """

    name: str
    points: Sequence[Point]
    style: str = "main"
    dots: bool = False


def line_chart(title: str, x_label: str, series: Sequence[Series], *, from_zero: bool = True) -> Markup:
    """Draw lines over a shared axis.

    Args:
        title: For screen readers.
        x_label: What the x axis counts.
        series: Lines, drawn in their order; those without points are left out.
        from_zero: Let the y axis begin at zero.

    Returns:
        An `<svg>` element that fills the width it is given; empty when there is nothing to draw.
    """
    drawn = [line for line in series if line.points]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks = ticks(0.0, max(xs))
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))
    # A last tick just beyond the data is worth the little room.
    end = max(max(xs), 1.0)
    x_span = (0.0, x_ticks[-1] if x_ticks[-1] <= 1.05 * end else end)
    y_span = (y_ticks[0], y_ticks[-1])

    def place(point: Point) -> tuple[float, float]:
        x = _LEFT + (point[0] - x_span[0]) / (x_span[1] - x_span[0]) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - y_span[0]) / (y_span[1] - y_span[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in y_ticks:
        _, y = place((0.0, value))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick_label(value, y_ticks)}</text>')
    for value in x_ticks:
        if value > x_span[1]:
            continue
        x, y = place((value, y_span[0]))
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick_label(value, x_ticks)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for line in drawn:
        placed = [place(point) for point in line.points]
        if len(placed) > 1:
            path = " ".join(f"{x},{y}" for x, y in placed)
            parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if line.dots or len(placed) == 1:
            parts += [f'<circle class="dot {line.style}" cx="{x}" cy="{y}" r="3"/>' for x, y in placed]
    parts.append("</svg>")
    return Markup("".join(map(str, parts)))


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers, some five of them, from at most `low` to at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
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


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Return the mean of the `window` points around each one; fewer at the ends, always as many before as after."""
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    result = []
    for index, (x, _) in enumerate(points):
        reach = min(window // 2, index, len(points) - 1 - index)
        result.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return result


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most about `limit` points, the mean of equal stretches, so that a long run draws as fast as a short one."""
    if len(points) <= limit:
        return list(points)
    stride = math.ceil(len(points) / limit)
    stretches = [points[start : start + stride] for start in range(0, len(points), stride)]
    return [(stretch[-1][0], sum(y for _, y in stretch) / len(stretch)) for stretch in stretches]
