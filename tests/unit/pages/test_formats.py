import datetime
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.pages.formats import duration, interval, moment, p_value, points, quantity, size
from tests.unit.pages.test_charts import Value


def test_a_moment_reads_well() -> None:
    assert moment(datetime.datetime(2026, 3, 7, 14, 5, 59, tzinfo=datetime.UTC)) == "7 March 2026, 14:05 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.97, "10 s"), (41.6, "42 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_is_right_to_its_last_digit(seconds: float) -> None:
    amounts = {unit: float(amount) for amount, unit in re.findall(r"([\d.]+) (s|min|h)", duration(seconds))}
    back = amounts.get("s", 0) + 60 * amounts.get("min", 0) + 3600 * amounts.get("h", 0)
    assert abs(back - seconds) <= (60 if "h" in amounts else 0.51 if seconds >= 9.9 else 0.051)
    assert all(amount < 60 for unit, amount in amounts.items() if unit != "h")


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (1500, "1.5 kB"), (14_500_000_000, "14.5 GB"), (2e12, "2.0 TB")]
)
def test_sizes_read_well(count: int, text: str) -> None:
    assert size(count) == text


def test_points_intervals_and_p_values_read_well() -> None:
    assert (points(61.94), points(-3.06), points(3.06, sign=True)) == ("61.9", "−3.1", "+3.1")
    assert interval(Value(1.0, -0.52, 2.0)) == "−0.5 to 2.0"
    assert interval(Value(1.0, -0.52, 2.0), sign=True) == "−0.5 to +2.0"
    assert interval(Value(1.0)) == ""
    assert (p_value(0.0009), p_value(0.0312), p_value(1.0)) == ("p < 0.001", "p = 0.031", "p = 1")


@pytest.mark.parametrize(("value", "text"), [(30_000.4, "30,000"), (0.12345, "0.123"), (None, "—"), ("cpu", "—")])
def test_quantities_read_well(value: object, text: str) -> None:
    assert quantity(value) == text
