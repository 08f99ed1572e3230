"""Stacks of a rank that gets no further, printed by itself: nobody can look into a pod that is stuck in a collective."""

import faulthandler
import os

from components.launch.stall import STALL_VARIABLE


class StackWatch:
    """Prints the stacks of all threads to stderr when no step is reported for as long as the launcher says.

    Python's own watchdog does it, in C: it also works while the interpreter waits in a library.
    """

    def __init__(self) -> None:
        self._after_s = float(os.environ.get(STALL_VARIABLE, "0"))

    def step(self) -> None:
        """Begin to count anew."""
        if self._after_s > 0:
            faulthandler.dump_traceback_later(self._after_s)

    def end(self) -> None:
        """Count no longer."""
        faulthandler.cancel_dump_traceback_later()
