"""The first signal begins the end of a process; the next do not disturb it."""

import signal
import threading
from collections.abc import Iterator

import pytest

from components.interruption import interrupted_once


class Told(Exception):
    pass


@pytest.fixture(autouse=True)
def handler_of_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    yield
    signal.signal(signal.SIGUSR1, before)


def clean_up_when_told(done: list[str]) -> None:
    with interrupted_once([signal.SIGUSR1], Told):
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.raise_signal(signal.SIGUSR1)
            done.append("job deleted")


def test_only_the_first_signal_raises_also_after_the_block() -> None:
    done: list[str] = []
    with pytest.raises(Told, match="SIGUSR1"):
        clean_up_when_told(done)
    assert done == ["job deleted"]
    signal.raise_signal(signal.SIGUSR1)


def test_block_that_nobody_interrupts_leaves_the_signals_as_they_were() -> None:
    with interrupted_once([signal.SIGUSR1], Told):
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGUSR1)


def test_another_thread_than_the_main_one_changes_nothing() -> None:
    seen = []

    def work() -> None:
        with interrupted_once([signal.SIGUSR1], Told):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
