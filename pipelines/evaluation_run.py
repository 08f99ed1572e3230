"""Evaluates a model outside of the pipeline: a run of its own, in this process, that commands, gates and MLflow know like any other."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.context import RunContext
from components.evaluate.config import EVALUATION_PREFIX
from components.evaluate.stage import run_evaluate
from components.generate.config import GENERATION_PREFIX
from components.generate.kept import KeptAnswerer
from components.generate.stage import run_generate
from components.runs.folder import CONFIG_NAME, CONTEXT_NAME, RunFolder, new_run, timestamp
from components.storage.atomic import write_json, write_text
from components.tracking.pipeline_run import finish_pipeline_run, open_pipeline_run
from pipelines.asked_model import AskedModel
from pipelines.config import EvaluationConfig
from pipelines.examinations import Ground
from pipelines.opening import code_commit

_SOURCE = "vlm evaluate"


def run_evaluation(
    workspace: Path,
    tracking_uri: str,
    name: str,
    model: AskedModel,
    ground: Ground,
    examinations: Mapping[str, EvaluationConfig],
) -> RunFolder:
    """Ask a model everything and score what it says; finished work is reused.

    Args:
        workspace: Root folder of all outputs.
        tracking_uri: MLflow tracking URI; empty for no tracking.
        name: Name of the run.
        model: The model.
        ground: The data.
        examinations: Name of an evaluation to what is asked.

    Returns:
        The run's folder.

    Raises:
        VlmError: The model, the data or an answer can't be had; what was finished is kept.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    run = new_run(workspace, name)
    stages = [prefix + each for each in examinations for prefix in (GENERATION_PREFIX, EVALUATION_PREFIX)]
    run.update_record(name=name, stages=stages, started=timestamp(), state="running", pid=os.getpid())
    status = "KILLED"
    context: RunContext | None = None
    try:
        context = _opened(run, tracking_uri, name, ground.experiment, _settings(model, ground, examinations))
        print(f"run      {run.run_id}\nmodel    {model.name}\ndata     {ground.said}", flush=True)
        _ask(context, model.place(context), ground.place(context), examinations)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        run.update_record(state=_STATES[status], ended=timestamp())
        if context is not None:
            finish_pipeline_run(context, status)
    return run


_STATES = {"FINISHED": "succeeded", "FAILED": "failed", "KILLED": "interrupted"}


def _ask(context: RunContext, model: Path, raw: Path, examinations: Mapping[str, EvaluationConfig]) -> None:
    """Ask one task after the other; the model stays open in between, and remembers the pictures that it has seen."""
    with KeptAnswerer() as kept:
        for name, asked in examinations.items():
            predictions = [
                run_generate(context, asked.generate, model, raw, number, name, kept).folder
                for number in range(asked.generate.partitions)
            ]
            run_evaluate(context, asked.evaluate, predictions, model, raw, name)


def _opened(run: RunFolder, tracking_uri: str, name: str, experiment: str, settings: Mapping[str, Any]) -> RunContext:
    write_text(run.path / CONFIG_NAME, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
    commit = code_commit()
    mlflow_run_id = open_pipeline_run(
        tracking_uri,
        experiment,
        name,
        run.run_id,
        run.workspace,
        settings,
        git_commit=commit,
        started=run.started,
        source=_SOURCE,
    )
    context = RunContext(
        run_id=run.run_id,
        run_name=name,
        workspace=run.workspace,
        tracking_uri=tracking_uri,
        experiment=experiment,
        mlflow_run_id=mlflow_run_id,
        git_commit=commit,
    )
    write_json(run.path / CONTEXT_NAME, context.model_dump(mode="json"))
    return context


def _settings(model: AskedModel, ground: Ground, examinations: Mapping[str, EvaluationConfig]) -> dict[str, Any]:
    """Return what decides the scores, as `config.yaml` and MLflow keep it."""
    asked = {"name": model.name, **({"published": model.published.model_dump(mode="json")} if model.published else {})}
    evaluations = {
        name: {part: getattr(entry, part).model_dump(mode="json") for part in ("generate", "evaluate")}
        for name, entry in examinations.items()
    }
    return {"asked": asked, "ground": ground.said, "evaluations": evaluations}
