"""Dots with error bars as inline SVG, coloured by the page's style sheet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from components.evaluate.scores import Measure
from components.report.charts import tick_label, ticks

_WIDTH = 760
_LEFT, _RIGHT, _TOP, _AXIS = 190, 72, 6, 30
_DOT, _GAP = 19, 12  # height of a dot's line, and what stands between rows


@dataclass(frozen=True)
class Dot:
    """A value with its interval.

    Attributes:
        measure: Value and interval.
        style: Class of the style sheet.
        label: What it belongs to, for screen readers.
    """

    measure: Measure
    style: str
    label: str


@dataclass(frozen=True)
class DotRow:
    """Dots that share a label."""

    label: str
    dots: Sequence[Dot]


def dot_chart(title: str, rows: Sequence[DotRow]) -> Markup:
    """Draw rows of dots over a shared axis that begins at zero.

    Args:
        title: For screen readers.
        rows: Rows from top to bottom, their dots one below the other.

    Returns:
        An `<svg>` element that fills the width it is given; empty without dots.
    """
    measures = [dot.measure for row in rows for dot in row.dots]
    if not measures:
        return Markup("")
    low = min(0.0, *(measure.value if measure.low is None else measure.low for measure in measures))
    high = max(measure.value if measure.high is None else measure.high for measure in measures)
    marks = ticks(low, high)
    heights = [_DOT * len(row.dots) + _GAP for row in rows]
    bottom = _TOP + sum(heights)

    def x(value: float) -> float:
        return round(_LEFT + (value - marks[0]) / (marks[-1] - marks[0]) * (_WIDTH - _LEFT - _RIGHT), 1)

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + _AXIS}" role="img" aria-label="{escape(title)}">']
    for value in marks:
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x(value)}" y="{bottom + 20}" text-anchor="middle">{tick_label(value, marks)}</text>')
    top = _TOP
    for row, height in zip(rows, heights, strict=True):
        middle = top + height / 2
        parts.append(
            f'<text class="row" x="{_LEFT - 14}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>'
        )
        for number, dot in enumerate(row.dots):
            parts.append(_dot(dot, x, top + _GAP / 2 + _DOT * (number + 0.5)))
        top += height
        if top < bottom:
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{top}" y2="{top}"/>')
    parts.append("</svg>")
    return Markup("".join(map(str, parts)))


def _dot(dot: Dot, x: Callable[[float], float], y: float) -> str:
    measure, style = dot.measure, escape(dot.style)
    text = f"{measure.value:.1f}"
    parts = [f'<g class="mark {style}"><title>{escape(dot.label)}: {text}</title>']
    end = x(measure.value)
    if measure.low is not None and measure.high is not None:
        left, right = x(measure.low), x(measure.high)
        parts.append(f'<path class="whisker" d="M{left} {y}H{right}M{left} {y - 4}V{y + 4}M{right} {y - 4}V{y + 4}"/>')
        end = right
    parts.append(f'<circle cx="{x(measure.value)}" cy="{y}" r="4.5"/>')
    parts.append(f'<text x="{max(end, x(measure.value) + 5) + 8}" y="{y + 4}">{text}</text></g>')
    return "".join(parts)
