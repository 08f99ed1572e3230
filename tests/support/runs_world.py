"""A workspace with several runs, some of them in MLflow, one of them only there."""

import datetime
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from components.context import RunContext
from components.runs.folder import RunFolder
from components.stage.runner import StageWork
from components.storage.atomic import write_json
from components.tracking.pipeline_run import close_pipeline_run, open_pipeline_run
from tests.support.evaluation_world import finished_stage

STAGES = ("sft", "evaluate/captioning", "report")


@dataclass(frozen=True)
class RunsWorld:
    """A workspace and an MLflow store.

    Attributes:
        workspace: The workspace; it need not have an MLflow database.
        uri: MLflow tracking URI; empty for none.
        home: Where MLflow's artifacts lie.
    """

    workspace: Path
    uri: str
    home: Path

    def run(self, run_id: str, name: str, day: int, state: str = "succeeded", tracked: bool = True) -> RunContext:
        """Add a run of January 2026 with finished stages, the way a pipeline leaves it."""
        started = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
        folder = RunFolder(self.workspace, run_id)
        folder.update_record(name=name, started=started.isoformat(), state=state)
        uri, mlflow_run_id = (self.uri if tracked else ""), ""
        if tracked:
            mlflow_run_id = open_pipeline_run(uri, "runs", name, run_id, self.home, {"name": name}, started=started)
        context = RunContext(
            run_id=run_id,
            run_name=name,
            workspace=self.workspace,
            tracking_uri=uri,
            experiment="runs",
            mlflow_run_id=mlflow_run_id,
        )
        write_json(folder.path / "context.json", context.model_dump(mode="json"))
        for stage in STAGES:
            finished_stage(context, stage, _write, made_by=run_id)
        close_pipeline_run(uri, mlflow_run_id, "FINISHED" if state == "succeeded" else "FAILED")
        # When files were written says nothing: here the oldest run has the newest ones.
        os.utime(folder.path / "context.json", (2e9 - day, 2e9 - day))
        return context

    def only_tracked(self, run_id: str, name: str, day: int) -> RunContext:
        """Add a run whose workspace is on another machine."""
        elsewhere = RunsWorld(self.workspace.with_name(f"{self.workspace.name}-elsewhere"), self.uri, self.home)
        context = elsewhere.run(run_id, name, day)
        shutil.rmtree(elsewhere.workspace)
        return context


def _write(work: StageWork) -> dict[str, float]:
    (work.folder / "report.html").write_text("<html/>")
    return {"loss": 1.0}
