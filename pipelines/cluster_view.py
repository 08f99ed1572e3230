"""A run of a cluster as people see it: KFP's tasks, MLflow's last metrics, and why pods wait, on the screen of every run."""

import datetime
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from components.errors import InputError, StageError, VlmError
from components.progress import last_reported
from components.runs.kfp import KfpRuns, PassingError
from components.runs.kfp_run import OVER, KfpRun
from components.runs.kfp_tasks import Task, tasks
from components.runs.rows import StageRow
from components.runs.tracked_stages import TrackedStage, tracked_stages
from pipelines.cluster_objects import pod_selector
from pipelines.cluster_pods import RunPods
from pipelines.cluster_stages import Plan, plan, plan_of_tasks, stage_pods, stage_rows
from pipelines.display import View, duration

POLL_S = 10.0
"""Seconds between two looks: each costs KFP an answer of some 100 kB."""

_PATIENCE_S = 900.0
_WAITS = re.compile(r"\S+ waits: (.+)")  # components/launch/waiting.py


class ClusterRun:
    """A run that is looked at, again and again.

    Args:
        runs: Where it is.
        run_id: KFP's id.
        tracking_uri: MLflow as it is reached from here; empty for no numbers of the trainings.
        pods: The run's pods; None where no cluster is reached from here.
    """

    def __init__(self, runs: KfpRuns, run_id: str, tracking_uri: str = "", pods: RunPods | None = None) -> None:
        self.runs = runs
        self.run_id = run_id
        self.run: KfpRun  # load() tells it
        self.tasks: list[Task] = []
        self._tracking_uri = tracking_uri
        self.pods = pods
        self._plan: Plan | None = None
        self._view = View("", [])
        self._answered = time.monotonic()

    @property
    def state(self) -> str:
        """How it stood when it was last looked at (see `KfpRun`)."""
        return self.run.state

    @property
    def plan(self) -> Plan:
        """What its pipeline does; of a pipeline that KFP does not have any more, what it did until now."""
        if self._plan is None:
            try:
                self._plan = plan(self.runs.specification(self.run))
            except InputError:  # its version was deleted
                return plan_of_tasks(self.tasks)
        return self._plan

    def load(self) -> None:
        """Ask KFP how it stands.

        Raises:
            InputError: There is no such run.
            StageError: KFP can't be asked.
        """
        self.run = self.runs.get(self.run_id)
        self.tasks = tasks(self.run)

    def look(self) -> View:
        """Return how it stands; the view before, with a note, when KFP does not answer this time.

        Raises:
            StageError: KFP could not be asked for a quarter of an hour; the run goes on.
        """
        try:
            self.load()
            rows, notes = self._rows()
        except PassingError as error:
            if time.monotonic() - self._answered > _PATIENCE_S:
                raise StageError(f"{error} The run goes on: {self.runs.link(self.run_id)}") from None
            return replace(self._view, notes=(f"{error} Trying again.",), over=False)
        self._answered = time.monotonic()
        title = f"{self.run.name or self.run_id}   {self.run_id}   {self.state} {duration(self._seconds())}"
        self._view = View(title, rows, tuple(notes), over=self.state in OVER)
        return self._view

    def _rows(self) -> tuple[list[StageRow], list[str]]:
        notes: list[str] = []
        rows = stage_rows(self.plan, self.tasks, self.state, self._tracked(notes), datetime.datetime.now(datetime.UTC))
        if self.state in OVER:
            failed = [row.stage for row in rows if row.state == "failed"]
            return rows, [*notes, *(f"vlm logs {self.run_id} {stage} prints what it said." for stage in failed[:1])]
        reasons = self._reasons(rows, notes)
        return [
            self._with_reason(row, reasons) if row.state == "queued" else self._with_log(row) for row in rows
        ], notes

    def _seconds(self) -> float:
        """Return how long the run took, or has taken."""
        ended = self.run.ended if self.state in OVER else datetime.datetime.now(datetime.UTC)
        return max(0.0, (ended - self.run.started).total_seconds()) if ended and self.run.started else 0.0

    def _tracked(self, notes: list[str]) -> Mapping[str, TrackedStage]:
        if not self._tracking_uri:
            notes.append(
                "No numbers of the trainings: pass --tracking-uri with MLflow's address as it is reached from here."
            )
            return {}
        try:
            return tracked_stages(self._tracking_uri, self.run_id)
        except VlmError as error:
            notes.append(f"No numbers of the trainings: {error}")
            return {}

    def _reasons(self, rows: list[StageRow], notes: list[str]) -> Mapping[str, str]:
        """Return why pods of the run wait, by their names."""
        if not any(row.state == "queued" for row in rows):
            return {}
        if self.pods is None:
            notes.append(
                f"Why a pod waits is told where kubectl reaches the cluster: kubectl describe pods -A -l "
                f"{pod_selector(self.run_id)}"
            )
            return {}
        reasons, problem = self.pods.reasons()
        notes += [problem] if problem else []
        return reasons

    def _with_reason(self, row: StageRow, reasons: Mapping[str, str]) -> StageRow:
        """Return a row with what its pod waits for."""
        pods = [task.pods[-1] for task in self._unfinished(row.stage)]
        return replace(row, message=next((reasons[pod] for pod in pods if pod in reasons), ""))

    def _with_log(self, row: StageRow) -> StageRow:
        """Return a row with what its pod says: how far it is, or what the job waits for that the pod follows."""
        if row.state != "running" or row.done:
            return row
        for task in self._unfinished(row.stage)[:1]:  # of partitions side by side the first to begin says enough
            with suppress(StageError):
                log = (self.runs.log(self.run_id, task.pods[-1], task.nodes[-1]) or "").splitlines()
                if row.stage in self.plan.trainings and (job := _waits(log)):
                    return replace(row, message=job)
                if reported := last_reported(row.stage, log):
                    return replace(row, **vars(reported))
        return row

    def _unfinished(self, stage: str) -> list[Task]:
        return [task for task in stage_pods(self.plan, self.tasks, stage) if task.ended is None]


def _waits(log: Sequence[str]) -> str:
    """Return what a training's job waits for, as the log of its launcher has it; empty when its ranks have spoken since."""
    for line in reversed(log):
        if line.startswith("[rank "):
            return ""
        if found := _WAITS.match(line):
            return f"waits: {found[1]}"
    return ""
