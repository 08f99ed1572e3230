"""How a process ends that is told to: the first signal begins its clean-up, and no further one cuts that short."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_once(
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    error: Callable[[str], BaseException] = KeyboardInterrupt,
) -> Iterator[None]:
    """Raise an exception at the first of these signals, in the main thread, and ignore those that follow it.

    A process that was told to stop stays deaf after the block: what its callers still write (the state of a run, a
    tracker's last entries) must not be cut short either, and SIGKILL is there for one that hangs. In another thread
    the block changes nothing, for only the main thread gets signals.

    Args:
        signals: What tells this process to stop.
        error: Makes the exception of the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise error(signal.Signals(number).name)

    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        if not told:
            for number, handler in previous.items():
                signal.signal(number, handler)
