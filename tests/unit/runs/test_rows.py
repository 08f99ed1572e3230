"""Several tasks of a stage are one row: how many are over, what needs attention, how long all of them took."""

from components.runs.rows import StageRow, merged

GENERATE, PARTS, JOINED = "generate/captioning", "wds_conversion/sft/parts", "wds_conversion/sft"


def row(stage: str, state: str, began: float, seconds: float, done: int = 0) -> StageRow:
    return StageRow(stage, state, key=f"key{began:g}", began=began, seconds=seconds, done=done)


def test_partitions_run_two_at_a_time() -> None:
    rows = [row(GENERATE, "done", 100, 10), row(GENERATE, "done", 100, 12), row(GENERATE, "running", 112, 5, done=7)]
    shown = merged(rows, 4, over=False)
    assert (shown.state, shown.parts, shown.seconds, shown.done) == ("running", (2, 4), 17, 7)


def test_between_two_partitions_a_stage_runs() -> None:
    rows = [row(GENERATE, "done", 100, 10, done=50)]
    assert merged(rows, 2, over=False) == StageRow(GENERATE, "running", began=100, seconds=10, parts=(1, 2))
    assert merged(rows, 2, over=True).state == "interrupted"
    assert merged([*rows, row(GENERATE, "reused", 100, 1)], 2, over=True).state == "done"


def test_a_partition_that_failed_is_what_is_shown() -> None:
    rows = [row(GENERATE, "done", 100, 10), row(GENERATE, "failed", 101, 3), row(GENERATE, "running", 110, 3)]
    shown = merged(rows, 4, over=False)
    assert (shown.state, shown.key, shown.parts) == ("failed", "key101", (1, 4))


def test_parts_are_shown_as_the_stage_that_joins_them() -> None:
    parts = [row(PARTS, "done", 100, 10), row(PARTS, "done", 101, 20)]
    shown = merged(parts, 2, over=False)
    assert (shown.stage, shown.state, shown.parts) == (JOINED, "running", (2, 2))
    joining = merged([*parts, row(JOINED, "running", 122, 1)], 2, over=False)
    assert (joining.stage, joining.state, joining.key, joining.seconds) == (JOINED, "running", "key122", 23)
    over = merged([*parts, row(JOINED, "done", 122, 2)], 2, over=True)
    assert (over.stage, over.state, over.key, over.parts) == (JOINED, "done", "key122", (2, 2))


def test_a_run_that_did_not_say_how_many_tasks_there_are_shows_those_that_began() -> None:
    rows = [row(GENERATE, "done", 100, 10), row(GENERATE, "done", 101, 10)]
    assert merged(rows, 1, over=False).parts == (2, 2)
    assert merged(rows[:1], 1, over=False) == rows[0]
