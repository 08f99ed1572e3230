"""Numbers and times for people."""

import datetime
from typing import Protocol


class Estimate(Protocol):
    """A value in points with its 95 % interval; None where it is exact."""

    @property
    def value(self) -> float:
        """The value."""

    @property
    def low(self) -> float | None:
        """The interval's lower end."""

    @property
    def high(self) -> float | None:
        """The interval's upper end."""


def points(value: float, sign: bool = False) -> str:
    """Return a number of points: "61.9", with `sign` "+3.1" and "−3.1"."""
    return f"{value:{'+' if sign else ''}.1f}".replace("-", "−")


def interval(estimate: Estimate, sign: bool = False) -> str:
    """Return an interval, "60.1 to 63.7", or nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{points(estimate.low, sign)} to {points(estimate.high, sign)}"


def p_value(value: float) -> str:
    """Return a p-value: "p = 0.031"; small ones as "p < 0.001"."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def quantity(value: object) -> str:
    """Return a number with three digits, a large one with all before the point; "—" for what is none."""
    if not isinstance(value, int | float):
        return "—"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a duration: "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(time: datetime.datetime) -> str:
    """Return a time in UTC to the minute: "7 March 2026, 14:05 UTC"."""
    return f"{time:%-d %B %Y, %H:%M} UTC"


def size(count: int) -> str:
    """Return a number of bytes, in powers of 1000: "12 B", "14.5 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
