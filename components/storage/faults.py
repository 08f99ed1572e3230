"""Patience with passing faults."""

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from components.errors import StageError
from components.storage.config import TransferConfig
from components.storage.remote import PassingFault

_LONGEST_WAIT_S = 60.0
_LONGEST_ASKED_S = 600.0
_Result = TypeVar("_Result")


class Faults:
    """Counts the faults in a row of one piece of work, and waits after each.

    Args:
        shown: What is fetched, for messages.
        config: How many faults, and how long to wait.
        stop: Ends a wait early.
    """

    def __init__(self, shown: str, config: TransferConfig, stop: threading.Event | None = None) -> None:
        self._shown, self._config = shown, config
        self._stop = stop or threading.Event()
        self._count = 0

    def forget(self) -> None:
        """Begin counting anew: a byte came."""
        self._count = 0

    def met(self, fault: PassingFault) -> None:
        """Wait as long as the server asks, else twice as long as after the fault before.

        Raises:
            StageError: It was one fault too many.
        """
        self._count += 1
        if self._count >= self._config.attempts:
            raise StageError(
                f"{self._shown}: gave up after {self._count} attempts: {fault}. What was received is kept: run again to go on."
            ) from None
        wait = min(_LONGEST_WAIT_S, self._config.first_wait_s * 2 ** (self._count - 1))
        wait *= random.uniform(0.75, 1.25)  # connections that failed together don't come back together
        if fault.retry_after_s is not None:
            wait = max(wait, min(fault.retry_after_s, _LONGEST_ASKED_S))
        print(f"{self._shown}: {fault}; again in {wait:.1f} s", flush=True)
        self._stop.wait(wait)


def patiently(action: Callable[[], _Result], shown: str, config: TransferConfig) -> _Result:
    """Return what `action` returns, trying again after passing faults.

    Raises:
        StageError: There were too many.
    """
    faults = Faults(shown, config)
    while True:
        try:
            return action()
        except PassingFault as fault:
            faults.met(fault)
