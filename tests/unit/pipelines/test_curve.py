"""Curves in characters."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.curve import braille_curve

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300)


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Return (column, row from the top) of every dot, by Unicode's numbering of a pattern's dots."""
    places = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))  # dots 1 to 8
    return {
        (2 * x + column, 4 * y + row)
        for y, line in enumerate(lines)
        for x, character in enumerate(line)
        for bit, (column, row) in enumerate(places)
        if (ord(character) - 0x2800) >> bit & 1
    }


def test_falling_values_fall_from_left_to_right() -> None:
    assert dots(braille_curve([3, 2, 1, 0], 2, 1)) == {(0, 0), (1, 1), (2, 2), (3, 3)}


def test_steep_piece_is_a_line() -> None:
    assert dots(braille_curve([3, 0], 1, 1)) == {(0, 0), (1, 1), (1, 2), (1, 3)}


def test_level_values_are_a_level_line() -> None:
    assert len({row for _, row in dots(braille_curve([5, 5, 5, 5], 4, 2))}) == 1


def test_one_value_is_no_curve() -> None:
    assert braille_curve([1], 10, 3) == []


@given(VALUES, st.integers(1, 80), st.integers(1, 5))
def test_every_curve_keeps_to_its_field_and_has_a_dot_in_every_column(
    values: list[float], width: int, height: int
) -> None:
    lines = braille_curve(values, width, height)
    assert [len(line) for line in lines] == [width] * height
    found = dots(lines)
    assert {column for column, _ in found} == set(range(2 * width))
    assert {row for _, row in found} <= set(range(4 * height))
    if len(values) == 2 * width and max(values) - min(values) > 1:
        assert (values.index(max(values)), 0) in found
        assert (values.index(min(values)), 4 * height - 1) in found


def test_between_few_values_there_are_straight_lines() -> None:
    found = dots(braille_curve([3, 0], 2, 1))
    assert {column: row for column, row in sorted(found)} == {0: 0, 1: 1, 2: 2, 3: 3}
