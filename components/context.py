"""What every stage of one pipeline run shares."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class RunContext(BaseModel):
    """Facts of the pipeline run that a stage belongs to.

    Attributes:
        run_id: Identifier of the pipeline run (KFP's job id on a cluster).
        run_name: The name that people see.
        workspace: Root folder of all stage outputs; on a cluster a mounted ReadWriteMany volume.
        tracking_uri: MLflow tracking URI; empty for no tracking.
        experiment: MLflow experiment name.
        mlflow_run_id: MLflow run of the whole pipeline run, parent of the stages' runs; empty for no tracking.
        git_commit: Commit of the code that compiled the run; empty when unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    run_name: str
    workspace: Path
    tracking_uri: str = ""
    experiment: str = "vlm-pipelines"
    mlflow_run_id: str = ""
    git_commit: str = ""
