"""The report stage: trainings and evaluations to one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.report.config import ReportConfig
from components.stage.runner import StageOutput, StageWork, run_stage

STAGE = "report"
VERSION = 3
REPORT_FILE = "report.html"


def run_report(
    context: RunContext, config: ReportConfig, pretrain: Path, sft: Path, evaluations: Sequence[Path]
) -> StageOutput:
    """Write the report of a run.

    Timings, configuration and lineage come from the manifests of all stages that the inputs were made from, which are
    found in the workspace.

    Args:
        context: The pipeline run.
        config: What is shown.
        pretrain: The pretraining's stage folder.
        sft: The instruction tuning's stage folder.
        evaluations: The evaluations' stage folders, in the order of the page.

    Returns:
        A folder with `report.html`.
    """

    def body(work: StageWork) -> dict[str, Any]:
        from components.report.page import render_report
        from components.storage.atomic import write_text

        page = render_report(context, config, pretrain, sft, evaluations)
        path = work.folder / REPORT_FILE
        write_text(path, page)
        work.tracker.log_artifact(path)
        return {"bytes": path.stat().st_size}

    return run_stage(
        context,
        stage=STAGE,
        version=VERSION,
        inputs={
            # The page names the run: another run's report is another page, even of the same results.
            "run": f"{context.run_name} {context.run_id} {context.git_commit}",
            "pretrain": pretrain,
            "sft": sft,
            **{f"evaluation {number}": folder for number, folder in enumerate(evaluations)},
        },
        settings=config,
        body=body,
    )
