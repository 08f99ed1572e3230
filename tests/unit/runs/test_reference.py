"""The rule by which a reference names one of several runs."""

import datetime
import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from components.runs.reference import matching_run, newest_first


@dataclass(frozen=True)
class Known:
    run_id: str
    name: str
    started: datetime.datetime | None
    finished: bool = True


def day(number: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, number, tzinfo=datetime.UTC)


TEXTS = st.text("ab-", min_size=1, max_size=4)
RUNS = st.lists(
    st.builds(Known, TEXTS, TEXTS, st.none() | st.integers(1, 4).map(day), st.booleans()),
    max_size=8,
    unique_by=lambda run: run.run_id,
)


def rank(run: Known, reference: str) -> tuple[int, float, str] | None:
    """Return how well a run fits, larger is better; None where it does not."""
    started = run.started.timestamp() if run.started else 0.0
    if run.run_id == reference:
        return (3, started, run.run_id)
    if not run.finished:
        return None
    if run.name == reference:
        return (2, started, run.run_id)
    return (1, started, run.run_id) if run.run_id[: len(reference)] == reference else None


@given(TEXTS, RUNS)
def test_the_run_that_fits_best_is_meant(reference: str, runs: list[Known]) -> None:
    found = matching_run(reference, runs, lambda run: run.finished)
    ranks = {rank(run, reference): run for run in runs}
    ranks.pop(None, None)
    assert found == (ranks[max(ranks)] if ranks else None)  # type: ignore[type-var]


@given(TEXTS, RUNS, st.randoms(use_true_random=False))
def test_the_order_in_which_runs_are_listed_does_not_matter(
    reference: str, runs: list[Known], generator: random.Random
) -> None:
    shuffled = runs.copy()
    generator.shuffle(shuffled)
    assert matching_run(reference, shuffled) == matching_run(reference, runs)
    assert newest_first(shuffled) == newest_first(runs)


@given(RUNS)
def test_a_whole_id_names_its_run(runs: list[Known]) -> None:
    for run in runs:
        assert matching_run(run.run_id, runs, lambda run: False) == run


def test_nothing_names_no_run() -> None:
    runs = [Known("a", "", day(1))]
    assert matching_run("", runs) is None
    assert matching_run(" ", runs) is None


def test_a_run_of_unknown_start_is_the_oldest() -> None:
    runs = [Known("z", "same", None), Known("a", "same", day(1))]
    assert matching_run("same", runs) == runs[1]
