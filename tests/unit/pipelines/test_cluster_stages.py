"""The stage table of runs on a cluster, from what a real KFP server told of them."""

import datetime
import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from components.runs.kfp_run import kfp_run
from components.runs.kfp_tasks import Task, tasks
from components.runs.rows import StageRow
from components.runs.tracked_stages import TrackedStage
from pipelines.cluster_stages import plan, plan_of_tasks, stage_pods, stage_rows
from pipelines.display import View, screen, what
from pipelines.preset_files import load_preset
from pipelines.stages import listed_stages
from tests.support.kfp_server import as_of, recorded_run, recorded_specification

NOW = datetime.datetime(2026, 11, 27, 12, 18, tzinfo=datetime.UTC)
PLAN = plan(recorded_specification())
PARTS = plan(recorded_specification("pipeline_spec_partitions"))
NOTHING: Mapping[str, TrackedStage] = {}


def rows_of(run: dict[str, Any], planned: Any = PLAN, tracked: Any = NOTHING, now: Any = NOW) -> dict[str, StageRow]:
    told = kfp_run(run)
    return {row.stage: row for row in stage_rows(planned, tasks(told), told.state, tracked, now)}


def shown(rows: dict[str, StageRow]) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(screen(View("title", list(rows.values()))))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize("planned", [PLAN, PARTS])
def test_stages_are_those_of_the_table_in_its_order(planned: Any) -> None:
    listed = [stage for stage in planned.stages if stage not in planned.unlisted]
    assert listed == [stage.name for stage in listed_stages(load_preset("laptop"))]
    assert planned.unlisted == {"quality_gate", "close_run"}


def test_a_running_run() -> None:
    training = TrackedStage(True, step=120, steps=400, steps_per_s=1.57, left_s=178.0, shown=(("loss", 2.1),))
    rows = rows_of(
        recorded_run("running_resumed"), tracked={"sft": training, "combine": TrackedStage(False, reused=True)}
    )
    assert (rows["wds_conversion/pretrain"].state, rows["wds_conversion/sft"].state) == ("done", "done")
    assert (rows["pretrain"].state, rows["pretrain"].seconds) == ("done", 273)
    assert rows["combine"].state == "reused"
    assert (rows["sft"].state, rows["sft"].seconds) == ("running", 44)
    assert what(rows["sft"]) == "training 120/400 steps, 1.57/s, loss 2.1, 2:58 left"
    assert (rows["generate/captioning"].state, rows["generate/multiple_choice"].state) == ("queued", "waiting")
    output = shown(rows)
    assert not any(word in output for word in ("driver", "executor", "onExit", "for-loop"))
    assert max(map(len, output.splitlines())) <= 80


def test_a_failed_run() -> None:
    failed = {"pretrain": TrackedStage(False, error="rank 1 ran out of memory\nmore")}
    rows = rows_of(recorded_run("failed_after_retries"), tracked=failed)
    assert (rows["pretrain"].state, what(rows["pretrain"])) == ("failed", "rank 1 ran out of memory, 2 tries")
    assert {rows[name].state for name in ("sft", "generate/captioning", "report")} == {"not reached"}
    assert "close_run" not in rows
    assert what(rows_of(recorded_run("failed_after_retries"))["pretrain"]) == "failed, 2 tries"


def test_a_cancelled_run() -> None:
    rows = rows_of(recorded_run("cancelled_bad_image"))
    assert rows["open_run"].state == "interrupted"
    assert {row.state for row in rows.values()} == {"interrupted", "not reached"}


def test_a_queued_run() -> None:
    rows = rows_of(as_of(recorded_run("cancelled_bad_image"), "2026-11-27T12:17:52Z"))
    assert {row.state for row in rows.values()} == {"waiting"}
    assert len(rows) == len(listed_stages(load_preset("laptop")))


def test_what_closes_a_run_is_shown_when_it_hangs() -> None:
    moment = "2026-11-27T12:20:20Z"
    rows = rows_of(as_of(recorded_run("cancelled_bad_image"), moment), now=datetime.datetime.fromisoformat(moment))
    assert rows["close_run"].state == "queued"


def test_a_finished_run_keeps_no_running_row() -> None:
    """KFP's last answer about the run itself still has running tasks."""
    run = recorded_run("succeeded_two_nodes_partitions")
    assert any(task.state in ("RUNNING", "PENDING") for task in tasks(kfp_run(run)))
    rows = rows_of(run, PARTS, {"sft": TrackedStage(False, seconds=99.0)})
    assert {row.state for row in rows.values()} == {"done"}
    assert rows["sft"].seconds == 99
    assert what(rows["generate/captioning"]) == "4 partitions"


def test_partitions_are_one_row() -> None:
    run = recorded_run("succeeded_two_nodes_partitions")
    unfinished = {**run, "state": "RUNNING", "state_history": []}
    rows = rows_of(as_of({**unfinished, "state_history": []}, "2026-11-27T12:10:00Z"), PARTS)
    assert rows["wds_conversion/pretrain"].parts == (0, 2)
    joined = rows_of(unfinished, PARTS)["wds_conversion/pretrain"]
    assert (joined.state, joined.seconds, joined.parts) == ("done", 41, (2, 2))


def generation(*states: str) -> list[Task]:
    (planned,) = [task for task in PARTS.tasks if task.stage == "generate/captioning"]
    ended = {"SUCCEEDED", "FAILED", "SKIPPED"}
    return [
        Task(planned.path, (turn,), state, NOW, NOW if state in ended else None, 1)
        for turn, state in enumerate(states)
        if state
    ]


@pytest.mark.parametrize(
    ("states", "run", "state", "text"),
    [
        (("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "RUNNING"), "running", "running", "3 of 4 partitions"),
        (("SUCCEEDED", "SUCCEEDED"), "running", "running", "2 of 4 partitions"),
        (("SUCCEEDED", "PENDING"), "running", "queued", "queued, 1 of 4 partitions"),
        (("SUCCEEDED", "FAILED", "RUNNING"), "running", "failed", "failed, 1 of 4 partitions"),
        (("SUCCEEDED", "SUCCEEDED"), "failed", "interrupted", "interrupted, 2 of 4 partitions"),
        (("SUCCEEDED", "FAILED"), "cancelled", "interrupted", "interrupted, 1 of 4 partitions"),
        (("SKIPPED",) * 4, "running", "reused", "finished before"),
        (("SUCCEEDED", "SKIPPED", "SKIPPED", "SKIPPED"), "running", "done", "4 partitions"),
    ],
)
def test_the_state_of_partitions(states: tuple[str, ...], run: str, state: str, text: str) -> None:
    rows = {row.stage: row for row in stage_rows(PARTS, generation(*states), run, {}, NOW)}
    row = rows["generate/captioning"]
    assert (row.state, what(row)) == (state, text)


def test_a_stage_in_a_dag_that_was_skipped_is_reused() -> None:
    skipped = [Task(("exit-handler-1", "captioning"), (), "SKIPPED", NOW, NOW)]
    rows = {row.stage: row.state for row in stage_rows(PARTS, skipped, "running", {}, NOW)}
    assert (rows["generate/captioning"], rows["generate/multiple_choice"]) == ("reused", "waiting")


def test_pods_of_a_stage() -> None:
    found = tasks(kfp_run(recorded_run("failed_after_retries")))
    (pretrain,) = stage_pods(PLAN, found, "pretrain")
    assert pretrain.pods[-1] == "vlm-training-5zpfz-system-container-impl-3126258554"
    assert stage_pods(PLAN, found, "sft") == []


def test_a_run_whose_pipeline_is_gone_shows_its_tasks() -> None:
    found = tasks(kfp_run(recorded_run("failed_after_retries")))
    rows = {row.stage: row.state for row in stage_rows(plan_of_tasks(found), found, "failed", {}, NOW)}
    assert (rows["wds-conversion-2"], rows["pretrain"]) == ("done", "failed")


def test_a_pipeline_of_another_version_is_shown_by_its_own_names() -> None:
    specification = recorded_specification()
    opening = specification["components"]["comp-exit-handler-1"]["dag"]["tasks"]["open-run"]
    opening["inputs"]["parameters"]["config"]["runtimeValue"]["constant"] = {"of": "another version"}
    assert set(plan(specification).stages) == set(PLAN.stages)
