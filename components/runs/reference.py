"""What a reference to a run means, the same wherever runs are kept.

Of the runs that a place has, a reference names

1. the run with this id;
2. else the newest run with this name;
3. else the newest run whose id begins so.

The newest run is the one that was started last, by the time that was recorded when it started; of runs that were started
in the same moment it is the one with the last id.
"""

import datetime
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

_EARLIEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Identified(Protocol):
    """What a run is found by."""

    @property
    def run_id(self) -> str:
        """Identifier of the pipeline run."""

    @property
    def name(self) -> str:
        """The name that people gave it; several runs may share it."""

    @property
    def started(self) -> datetime.datetime | None:
        """When it was started, with a time zone; None where nothing recorded it."""


R = TypeVar("R", bound=Identified)


def newest_first(runs: Iterable[R]) -> list[R]:
    """Return runs, the one that was started last first; those of unknown start come last."""
    return sorted(runs, key=lambda run: (run.started or _EARLIEST, run.run_id), reverse=True)


def matching_run(reference: str, runs: Iterable[R], counts: Callable[[R], bool] = lambda run: True) -> R | None:
    """Return the run that a reference names.

    Args:
        reference: An id, a name, or the beginning of an id; nothing but blanks names no run.
        runs: The runs that there are.
        counts: Which of them a name or a beginning may stand for; a whole id names its run whatever it is.

    Returns:
        The run, or None where there is none.
    """
    if not reference.strip():
        return None
    ordered = newest_first(runs)
    whole = next((run for run in ordered if run.run_id == reference), None)
    if whole is not None:
        return whole
    counted = [run for run in ordered if counts(run)]
    named = (run for run in counted if run.name == reference)
    begun = (run for run in counted if run.run_id.startswith(reference))
    return next(named, None) or next(begun, None)
