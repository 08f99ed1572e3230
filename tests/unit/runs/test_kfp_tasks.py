"""Tasks of a run from the flat list of nodes that a real KFP server told."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from components.runs.kfp_run import kfp_run
from components.runs.kfp_tasks import Task, tasks
from tests.support.kfp_server import as_of, recorded_events, recorded_run

ALL = ("cancelled_bad_image", "failed_after_retries", "running_resumed", "succeeded_two_nodes_partitions")
HANDLER = "exit-handler-1"


def told(run: dict[str, Any]) -> dict[tuple[str, ...], list[Task]]:
    found: dict[tuple[str, ...], list[Task]] = {}
    for task in sorted(tasks(kfp_run(run)), key=lambda task: task.turn):
        found.setdefault(task.path, []).append(task)
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_record_is_a_task_a_try_a_driver_or_an_executor(name: str) -> None:
    """Nothing is lost: every name has its task, that of a driver the task that it drives."""
    run = recorded_run(name)
    plain = {record["display_name"].removesuffix("-driver") for record in run["run_details"]["task_details"]}
    ours = {
        display
        for display in plain
        if "(" not in display
        and not display.endswith(".onExit")
        and not display.startswith(("executor", "root", "vlm-training-", "iteration"))
    }
    assert {path[-1] for path in told(run)} == ours


def test_what_lies_where() -> None:
    found = told(recorded_run("succeeded_two_nodes_partitions"))
    loop = (HANDLER, "wds-conversion-pretrain", "for-loop-2")
    parts = found[*loop, "wds-conversion-part"]
    assert [(part.turn, part.state, part.tries) for part in parts] == [((0,), "SUCCEEDED", 1), ((1,), "SUCCEEDED", 1)]
    assert parts[0].pods != parts[1].pods
    (merge,) = found[HANDLER, "wds-conversion-pretrain", "wds-conversion-merge"]
    assert merge.ended is not None
    assert merge.started is not None
    assert (merge.ended - merge.started).total_seconds() == 10
    assert (HANDLER, "wds-conversion") in found
    (driver_only,) = found[HANDLER, "pretrain"]
    assert (driver_only.state, driver_only.nodes, driver_only.ended) == ("PENDING", (), None)


def test_tries_are_counted_and_named_by_their_pods() -> None:
    found = told(recorded_run("failed_after_retries"))
    (pretrain,) = found[HANDLER, "pretrain"]
    assert (pretrain.state, pretrain.tries) == ("FAILED", 2)
    assert pretrain.nodes == ("vlm-training-5zpfz-2522117175", "vlm-training-5zpfz-3126258554")
    (report,) = found[HANDLER, "report"]
    assert (report.state, report.tries) == ("", 0)


def test_pods_are_those_of_the_clusters_events() -> None:
    """The names are computed; the events of the same run come from the cluster itself."""
    found = told(recorded_run("cancelled_bad_image"))
    pods = {found[HANDLER, "open-run"][0].pods[0], found["close-run",][0].pods[0]}
    assert pods == {event["pod"] for event in recorded_events() if "pgv2h" in event["pod"]}


def test_a_task_waits_while_its_pod_does() -> None:
    run = recorded_run("cancelled_bad_image")
    (opening,) = told(as_of(run, "2026-11-27T12:19:00Z"))[HANDLER, "open-run"]
    assert (opening.state, opening.ended, opening.tries) == ("PENDING", None, 1)
    running = told(recorded_run("running_resumed"))
    assert [task.state for task in running[HANDLER, "sft"]] == ["RUNNING"]
    assert [task.state for task in running[HANDLER, "captioning", "for-loop-2", "generate"]] == ["PENDING"]


@pytest.mark.parametrize("seed", range(12))
def test_neither_the_order_of_the_records_nor_missing_ones_mislead(seed: int) -> None:
    run = recorded_run("succeeded_two_nodes_partitions")
    records = run["run_details"]["task_details"]
    whole = told(run)
    random.Random(seed).shuffle(records)
    assert told(run) == whole
    del records[: 5 * seed]
    assert set(told(run)) <= set(whole)


@pytest.mark.parametrize("change", [lambda run: run.pop("run_details"), lambda run: run.update(run_details={})])
def test_a_run_that_has_not_begun_has_no_tasks(change: Callable[[dict[str, Any]], None]) -> None:
    run = recorded_run("running_resumed")
    change(run)
    assert not told(run)


@pytest.mark.parametrize(("name", "state"), zip(ALL, ("cancelled", "failed", "running", "succeeded"), strict=True))
def test_how_runs_stand(name: str, state: str) -> None:
    assert kfp_run(recorded_run(name)).state == state


@pytest.mark.parametrize(
    ("moment", "state"), [("12:17:52", "queued"), ("12:19:00", "running"), ("12:20:10", "cancelling")]
)
def test_how_a_run_stood(moment: str, state: str) -> None:
    run = as_of(recorded_run("cancelled_bad_image"), f"2026-11-27T{moment}Z")
    assert kfp_run(run).state == state
