"""First and last task of the DAG: one checks the whole configuration and opens the run, the other closes it."""

from typing import NamedTuple

from kfp import dsl

from components.images import CPU_IMAGE
from pipelines.parameters import takes_parameters


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
@takes_parameters()
def open_run(config: dict, job_id: str, **parameters) -> NamedTuple(
    "Opened", [("context", dict), ("settings", dict), ("cluster", dict)]
):
    """Check every setting of the run before any work starts, and open the run in MLflow.

    Args:
        config: The preset's settings.
        job_id: KFP's id of this run.
    """
    from components.stage.shell import reported_errors
    from pipelines.opening import open_pipeline, run_identifier
    from pipelines.parameters import given_parameters

    with reported_errors():
        return open_pipeline(config, given_parameters(), run_identifier(job_id))


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def close_run(job_id: str, workspace: str, status: dsl.PipelineTaskFinalStatus):
    """Close the run in MLflow however it ended, and report the stages that did not finish.

    Args:
        job_id: KFP's id of this run.
        workspace: Root folder of all stage outputs.
        status: How the run ended, from KFP.
    """
    from pathlib import Path

    from components.stage.shell import reported_errors
    from pipelines.opening import close_pipeline, run_identifier

    with reported_errors():
        close_pipeline(Path(workspace), run_identifier(job_id), status.state)
