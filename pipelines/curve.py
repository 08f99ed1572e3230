"""A curve in characters: braille patterns, two points wide and four high."""

from collections.abc import Sequence
from itertools import pairwise

_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of a pattern: columns, from the top down


def braille_curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values from left to right, the largest on top.

    Args:
        values: Finite numbers, evenly spaced.
        width: Characters of a line. More values than fit are averaged, between fewer straight lines are drawn.
        height: Lines.

    Returns:
        The lines, the top one first; no lines for fewer than two values.
    """
    if len(values) < 2:
        return []
    points = _resampled(values, 2 * width)
    rows = 4 * height
    low, high = min(points), max(points)
    span = high - low or 1.0
    places = [round((high - point) / span * (rows - 1)) for point in points]
    cells = [[_BLANK] * width for _ in range(height)]
    before = places[0]
    for column, place in enumerate(places):
        # A steep piece is a line, and not two dots far from each other.
        towards = before + (place > before) - (place < before)
        for row in range(min(place, towards), max(place, towards) + 1):
            cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
        before = place
    return ["".join(map(chr, line)) for line in cells]


def _resampled(values: Sequence[float], count: int) -> list[float]:
    if len(values) <= count:
        places = [index * (len(values) - 1) / (count - 1) for index in range(count)]
        pieces = [min(int(place), len(values) - 2) for place in places]
        return [
            values[piece] + (place - piece) * (values[piece + 1] - values[piece])
            for place, piece in zip(places, pieces, strict=True)
        ]
    edges = [index * len(values) // count for index in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
