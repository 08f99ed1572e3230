"""A run as Kubeflow Pipelines tells it, of what its API answers: how it stands, its pipeline, the nodes of its workflow.

The answers are read as the JSON that they are. KFP's client makes them into objects, and for each a configuration of its own, which
clears the caches of all loggers of the process, hundreds of times for the nodes of one run.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STATES = {
    "PENDING": "queued",
    "CANCELING": "cancelling",
    "PAUSED": "paused",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "SKIPPED": "skipped",
}
OVER = frozenset({"succeeded", "failed", "cancelled", "skipped"})
"""States of a run, as `KfpRun.state` tells them, that don't change any more."""


@dataclass(frozen=True)
class Node:
    """A node of a run's workflow.

    Attributes:
        name: The last part of its name.
        state: KFP's word; empty where it has none.
        started: When it began, UTC.
        ended: When it ended, UTC; a moment long ago before.
        children: Ids of the nodes that follow it.
    """

    name: str
    state: str
    started: datetime.datetime | None
    ended: datetime.datetime | None
    children: tuple[str, ...]


@dataclass(frozen=True)
class KfpRun:
    """A run.

    Attributes:
        run_id: KFP's id.
        name: The name that people gave it.
        state: "queued", "running", "cancelling", "paused", "succeeded", "failed", "cancelled" or "skipped".
        started: When it was made, UTC.
        ended: When it ended, UTC; a moment long ago before.
        version: Ids of its pipeline and of the pipeline's version; None of a run that has its pipeline with it.
        specification: The pipeline that it has with it; empty without.
        nodes: The nodes of its workflow, in no order.
    """

    run_id: str
    name: str
    state: str
    started: datetime.datetime | None
    ended: datetime.datetime | None
    version: tuple[str, str] | None
    specification: Mapping[str, Any]
    nodes: tuple[Node, ...]


def kfp_run(answer: Mapping[str, Any]) -> KfpRun:
    """Return a run of KFP's answer: `v2beta1Run`, without what has its default."""
    version = answer.get("pipeline_version_reference")
    details = answer.get("run_details") or {}
    return KfpRun(
        str(answer["run_id"]),
        str(answer.get("display_name") or ""),
        _state(answer),
        _moment(answer.get("created_at")),
        _moment(answer.get("finished_at")),
        (str(version["pipeline_id"]), str(version["pipeline_version_id"])) if version else None,
        answer.get("pipeline_spec") or {},
        tuple(_node(task) for task in details.get("task_details") or []),
    )


def _node(task: Mapping[str, Any]) -> Node:
    return Node(
        str(task.get("display_name") or ""),
        str(task.get("state") or ""),
        _moment(task.get("start_time")),
        _moment(task.get("end_time")),
        tuple(str(child["pod_name"]) for child in task.get("child_tasks") or [] if child.get("pod_name")),
    )


def _state(answer: Mapping[str, Any]) -> str:
    """Return how a run stands. KFP calls a run that was cancelled FAILED; its history has what came before."""
    state = str(answer.get("state") or "")
    history = [str(entry.get("state") or state) for entry in answer.get("state_history") or []]
    before = [entry for entry in history if entry != state]
    if state == "FAILED" and before and before[-1] == "CANCELING":
        return "cancelled"
    return _STATES.get(state, "running")


def _moment(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None
