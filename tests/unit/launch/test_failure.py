"""Who is to blame: of many ranks that end within a second, the one that knows why."""

from typing import Any

import pytest

from components.launch import pytorchjob
from components.launch.errors import ClusterFailure, TrainingFailed
from components.launch.failure import accuse, explain
from components.launch.job_kind import JobStatus
from tests.support.launching import PREFIX
from tests.support.torchrun_lines import root_cause

GLOO = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.244.0.31]:21843"
)
LOST = ["[rank 0] Traceback (most recent call last):", f"[rank 0] {GLOO}"]
NAN = "[rank 3] ERROR: The loss of step 7 is nan: training diverged. Lower recipe.learning_rate."
FAILED = JobStatus("failed", "PyTorchJobFailed", "PyTorchJob x is failed because 1 Worker replica(s) failed.")


def pod(node: int, code: int, finished: str) -> dict[str, Any]:
    role, index = ("master", 0) if node == 0 else ("worker", node - 1)
    terminated = {"exitCode": code, "reason": "Error", "finishedAt": finished}
    return {
        "metadata": {
            "name": f"job-{role}-{index}",
            "uid": str(node),
            "labels": {f"{PREFIX}/replica-type": role, f"{PREFIX}/replica-index": str(index)},
        },
        "status": {"phase": "Failed", "containerStatuses": [{"name": "pytorch", "state": {"terminated": terminated}}]},
    }


def why(logs: dict[int, tuple[str, list[str]]]) -> Exception:
    """Return the error of a job, by node: when its pod ended, and its log."""
    pods = [pod(node, 1, finished) for node, (finished, _) in logs.items()]
    return explain("PyTorchJob vlm/x", pytorchjob.KIND, FAILED, pods, lambda one: logs[int(one["metadata"]["uid"])][1])


def test_rank_with_words_of_its_own_counts_before_one_that_lost_it() -> None:
    rank, evidence = accuse([*LOST, NAN, *root_cause(0, 0, 1)], 1)
    assert rank == 3
    assert evidence.lines == [NAN.removeprefix("[rank 3] ")]


def test_rank_that_failed_first_counts_where_it_knows_why() -> None:
    lines = ["[rank 1] Traceback (most recent call last):", "[rank 1] KeyError: 'x'", NAN, *root_cause(1, 1, 1)]
    assert accuse(lines, 1)[0] == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_torchruns_clock_counts_and_not_the_pods_end(order: tuple[int, int]) -> None:
    """Node 1's torchrun waits for its other rank, which is stuck: its pod ends a minute after those that only lost rank 3."""
    logs = {
        0: ("2026-11-27T12:00:02Z", [*LOST, *root_cause(0, 0, 1, "2026-11-27_12:00:01")]),
        1: ("2026-11-27T12:01:02Z", [NAN, *root_cause(3, 1, 1, "2026-11-27_12:00:01")]),
    }
    error = why({node: logs[node] for node in order})
    assert isinstance(error, TrainingFailed)
    assert "rank 3 on node 1 (pod job-worker-0) ended with exit code 1.\nERROR: The loss of step 7 is nan" in str(error)


def test_what_came_much_later_is_no_cause() -> None:
    error = why(
        {
            0: ("2026-11-27T12:00:02Z", [*LOST, *root_cause(0, 0, 1, "2026-11-27_12:00:01")]),
            1: ("2026-11-27T12:10:02Z", [NAN, *root_cause(3, 1, 1, "2026-11-27_12:10:01")]),
        }
    )
    assert isinstance(error, ClusterFailure)
    assert error.reason is not None
    assert error.reason.name == "ranks lost one another"
