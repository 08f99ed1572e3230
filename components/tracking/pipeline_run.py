"""The MLflow run of a whole pipeline run: opened before any work, ended as the pipeline ends."""

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.context import RunContext
from components.tracking.client import as_stage_error, check_reachable, connect, experiment_id, user
from components.tracking.journal import JournalHeader, journal_folder, write_header
from components.tracking.mlflow_run import MlflowRun, end_pipeline_run
from components.tracking.sender import sending
from components.tracking.tags import (
    COMMIT_TAG,
    KIND_TAG,
    NOTE_TAG,
    PARENT_TAG,
    PIPELINE,
    RUN_ID_TAG,
    SOURCE_TAG,
    SOURCE_TYPE_TAG,
    USER_TAG,
    WORKSPACE_TAG,
)
from components.tracking.tracker import StageTracker, injected_run, parameter_texts

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_JOURNAL = "pipeline"


def open_pipeline_run(
    tracking_uri: str,
    experiment: str,
    run_name: str,
    run_id: str,
    workspace: Path,
    parameters: Mapping[str, Any],
    git_commit: str = "",
    started: datetime.datetime | None = None,
    source: str = "",
    links: Mapping[str, str] | None = None,
) -> str:
    """Create (or find, for a retried task) the MLflow run of a pipeline run and log its configuration.

    Args:
        tracking_uri: MLflow tracking URI; a SQLite one keeps its artifacts in `<workspace>/mlartifacts`.
        experiment: Experiment name, created when missing.
        run_name: Name that is shown.
        run_id: Identifier of the pipeline run, kept as a tag.
        workspace: The run's workspace.
        parameters: The whole configuration.
        git_commit: Commit of the code, kept as a tag.
        started: When the pipeline run was started; now by default.
        source: What MLflow shows as the run's source: the pipeline's name.
        links: Title to address of pages that belong to the run, for its description; one of the run's artifacts is
            named by its path.

    Returns:
        The MLflow run id; empty when `tracking_uri` is empty.

    Raises:
        StageError: The server can't be reached, or the experiment is deleted.
    """
    if not tracking_uri:
        return ""
    check_reachable(tracking_uri)
    client = connect(tracking_uri)
    with as_stage_error(tracking_uri):
        experiment_of_run = experiment_id(client, tracking_uri, experiment, workspace)
        existing = client.search_runs(
            [experiment_of_run], f"tags.`{RUN_ID_TAG}` = '{run_id}' and tags.`{KIND_TAG}` = '{PIPELINE}'", max_results=1
        )
        if existing:
            mlflow_run_id = str(existing[0].info.run_id)
            client.update_run(mlflow_run_id, status="RUNNING")
        else:
            start = None if started is None else int(started.timestamp() * 1000)
            mlflow_run_id = (
                _injected_parent(client, tracking_uri)
                or client.create_run(experiment_of_run, start_time=start, run_name=run_name).info.run_id
            )
        tags = {
            RUN_ID_TAG: run_id,
            KIND_TAG: PIPELINE,
            WORKSPACE_TAG: str(workspace),
            USER_TAG: user(),
            SOURCE_TAG: source,
            SOURCE_TYPE_TAG: "JOB" if source else "",
            COMMIT_TAG: git_commit,
            NOTE_TAG: _note(run_name, run_id, workspace, _addresses(links or {}, experiment_of_run, mlflow_run_id)),
        }
        header = JournalHeader(tracking_uri=tracking_uri, experiment=experiment, workspace=workspace, name=run_name)
        run = MlflowRun(client, header, mlflow_run_id)
        run.set_tags(mlflow_run_id, {name: value for name, value in tags.items() if value})
        run.log_params(parameter_texts(parameters))
    return mlflow_run_id


def close_pipeline_run(tracking_uri: str, mlflow_run_id: str, status: str) -> None:
    """End the pipeline's run at once with `FINISHED`, `FAILED` or `KILLED`, and with it nested runs that are still open.

    Raises:
        StageError: The server can't be reached.
    """
    if not tracking_uri or not mlflow_run_id:
        return
    client = connect(tracking_uri)
    with as_stage_error(tracking_uri):
        end_pipeline_run(client, mlflow_run_id, status)


def finish_pipeline_run(context: RunContext, status: str, send: bool = True) -> None:
    """End the pipeline's run when MLflow has heard of all its stages; what it can't take now waits in the run's folder.

    Args:
        context: The pipeline run.
        status: `FINISHED`, `FAILED` or `KILLED`.
        send: Send it now, unless another process does; False where the caller's own sender follows.
    """
    if not context.tracking_uri or not context.mlflow_run_id:
        return
    with sending(context.workspace, context.run_id, others=True) if send else nullcontext():
        _pipeline_journal(context).end(status)


@contextmanager
def pipeline_tracker(context: RunContext) -> Iterator[StageTracker]:
    """Log on the pipeline's own run; without tracking the tracker does nothing."""
    if not context.tracking_uri or not context.mlflow_run_id:
        yield StageTracker()
        return
    with sending(context.workspace, context.run_id):
        yield _pipeline_journal(context)


def _pipeline_journal(context: RunContext) -> StageTracker:
    folder = journal_folder(context.workspace, context.run_id, _JOURNAL, "")
    header = JournalHeader(
        tracking_uri=context.tracking_uri,
        experiment=context.experiment,
        workspace=context.workspace,
        name=context.run_name,
        mlflow_run_id=context.mlflow_run_id,
    )
    write_header(folder, header)
    return StageTracker(folder)


def _injected_parent(client: "MlflowClient", uri: str) -> str:
    """Return the pipeline-level run of KFP's MLflow plugin, if the plugin made a run for this task."""
    run_id = injected_run(uri)
    if not run_id:
        return ""
    return str(client.get_run(run_id).data.tags.get(PARENT_TAG, run_id))


def _addresses(links: Mapping[str, str], experiment: str, mlflow_run_id: str) -> dict[str, str]:
    """Return links with the paths of artifacts as addresses within MLflow's own pages."""
    artifacts = f"#/experiments/{experiment}/runs/{mlflow_run_id}/artifacts"
    return {title: link if "://" in link else f"{artifacts}/{link}" for title, link in links.items()}


def _note(run_name: str, run_id: str, workspace: Path, links: Mapping[str, str]) -> str:
    """Return the description that MLflow shows above a run, Markdown."""
    lines = [f"Pipeline run **{run_name}** (`{run_id}`), workspace `{workspace}`."]
    if links:
        lines.append(" · ".join(f"[{title}]({address})" for title, address in links.items()))
    return "\n\n".join(lines)
