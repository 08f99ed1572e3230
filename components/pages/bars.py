"""Values with their intervals as bars; the macro `bars` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.pages.charts import ticks
from components.pages.formats import Estimate


@dataclass(frozen=True)
class BarRow:
    """A value to draw.

    Attributes:
        label: What it belongs to.
        estimate: Value and interval.
        own: Whether it is what the page is about, not a control.
    """

    label: str
    estimate: Estimate
    own: bool = True


@dataclass(frozen=True)
class Bar:
    """One bar with its interval; widths and places in percent of the axis."""

    row: BarRow
    width: float
    span_left: float | None
    span_width: float | None


def bars(rows: Sequence[BarRow], full_scale: float | None = None) -> list[Bar]:
    """Place values over a shared axis that begins at zero.

    Args:
        rows: Bars from top to bottom.
        full_scale: Where the axis ends; None for a round number beyond all values and intervals.
    """
    if not rows:
        return []
    ends = [row.estimate.value if row.estimate.high is None else row.estimate.high for row in rows]
    top = full_scale or ticks(0.0, max(1.0, *ends))[-1]

    def percent(value: float) -> float:
        return round(100 * min(max(value / top, 0.0), 1.0), 2)

    placed = []
    for row in rows:
        left = width = None
        if row.estimate.low is not None and row.estimate.high is not None:
            left = percent(row.estimate.low)
            width = round(percent(row.estimate.high) - left, 2)
        placed.append(Bar(row, percent(row.estimate.value), left, width))
    return placed
