"""How long a run will still take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runs.rows import StageRow
from pipelines.forecast import Forecast, expected_seconds, forecast
from pipelines.preset_files import load_preset
from pipelines.stages import listed_stages

EXPECTED = {"open_run": 5.0, "download": 20.0, "combine": 20.0, "pretrain": 200.0, "sft": 100.0, "report": 5.0}


def rows(*known: StageRow) -> list[StageRow]:
    return [*known, *(StageRow(stage) for stage in list(EXPECTED)[len(known) :])]


def seconds(elapsed_s: float, *known: StageRow) -> float:
    found = forecast(rows(*known), EXPECTED, elapsed_s)
    assert found is not None
    return found.seconds


def done(stage: str, took: float) -> StageRow:
    return StageRow(stage, "done", seconds=took)


def test_a_run_that_begins_is_expected_to_take_what_its_stages_do() -> None:
    assert seconds(0) == sum(EXPECTED.values())


def test_a_machine_that_is_half_as_fast_is_known_before_training() -> None:
    left = seconds(90, done("open_run", 10), done("download", 40), done("combine", 40))
    assert 1.7 * 305 < left < 2 * 305


def test_trainings_go_by_their_own_pace() -> None:
    before = [done("open_run", 5), done("download", 20), done("combine", 20)]
    running = StageRow("pretrain", "running", seconds=100, left_s=300)
    assert seconds(145, *before, running) == pytest.approx(300 + 2 * 100 + 5)
    assert seconds(445, *before, done("pretrain", 400)) == pytest.approx(2 * 100 + 5)


def test_a_stage_that_takes_longer_than_expected_is_not_over_before_its_time() -> None:
    before = [done("open_run", 5), done("download", 20), done("combine", 20), done("pretrain", 200), done("sft", 100)]
    assert seconds(400, *before, StageRow("report", "running", seconds=55)) == 0
    assert str(Forecast(0, False)) == "less than a minute left"


def test_what_may_be_found_finished_is_said() -> None:
    found = forecast(rows(done("open_run", 5), StageRow("download", "reused")), EXPECTED, 8)
    assert str(found) == "at most about 6 min left"
    found = forecast(rows(done("open_run", 5), StageRow("download", "reused"), done("combine", 20)), EXPECTED, 28)
    assert str(found) == "about 5 min left"


def test_nothing_is_said_of_stages_that_nothing_is_known_of() -> None:
    assert forecast([StageRow("pretrain")], {}, 10) is None
    assert forecast([StageRow("another")], EXPECTED, 10) is None


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (20, "less than a minute left"),
        (70, "about 1 min left"),
        (3000, "about 50 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_words(left: float, text: str) -> None:
    assert str(Forecast(left, at_most=False)) == text


def test_every_stage_of_the_laptop_preset_is_expected_to_take_some_time() -> None:
    config = load_preset("laptop")
    expected = expected_seconds(config)
    assert list(expected) == [stage.name for stage in listed_stages(config)]
    assert min(expected.values()) > 1
    twice = load_preset("laptop", [f"pretrain.recipe.iterations={2 * config.pretrain.recipe.iterations}"])
    assert expected_seconds(twice)["pretrain"] > 1.5 * expected["pretrain"]


def test_models_that_are_not_drawn_are_not_guessed_at() -> None:
    assert expected_seconds(load_preset("mistral-clip-7b")) == {}


STATES = st.sampled_from(["waiting", "running", "done", "reused", "failed", "interrupted", "not reached"])
ROW = st.tuples(STATES, st.floats(0, 1e5), st.none() | st.floats(0, 1e5))


@given(st.lists(ROW, min_size=len(EXPECTED), max_size=len(EXPECTED)), st.floats(0, 1e6))
def test_whatever_happens_something_sensible_is_said(
    states: list[tuple[str, float, float | None]], elapsed_s: float
) -> None:
    found = forecast(
        [
            StageRow(stage, state, seconds=took, left_s=left)
            for stage, (state, took, left) in zip(EXPECTED, states, strict=True)
        ],
        EXPECTED,
        elapsed_s,
    )
    assert found is not None
    assert 0 <= found.seconds < 1e12
    assert str(found).endswith("left")
