"""When a run is going wrong although its loss is still a number."""

import statistics
from collections import deque

_WINDOW = 100
_LEAST = 20


class SpikeGuard:
    """Counts steps in a row whose loss is far above the usual.

    The usual is the median of the last 100 losses that were not themselves far above it; before there are 20 nothing is
    said. After a resume it begins anew.

    Args:
        factor: How many times the usual loss is too much; 0 switches the guard off.
        steps: Steps in a row after which the run counts as diverging.
    """

    def __init__(self, factor: float, steps: int) -> None:
        self._factor = factor
        self._steps = steps
        self._usual: deque[float] = deque(maxlen=_WINDOW)
        self._above = 0

    def diverges(self, loss: float) -> bool:
        """Take the loss of the next step and return whether the run counts as diverging."""
        if not self._factor:
            return False
        if len(self._usual) >= _LEAST and loss > self._factor * statistics.median(self._usual):
            self._above += 1
        else:
            self._above = 0
            self._usual.append(loss)
        return self._above >= self._steps
