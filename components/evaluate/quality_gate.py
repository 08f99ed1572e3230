"""The end of a run: its gates' outcomes are kept in MLflow and enforced, and a model that passes is registered."""

from collections.abc import Sequence
from pathlib import Path

from components.context import RunContext
from components.evaluate.gates import enforce_gates
from components.evaluate.scores import Measure, Scores, read_scores
from components.stage.manifest import read_manifest
from components.stage.runner import input_identity
from components.tracking.pipeline_run import pipeline_tracker
from components.tracking.registry import RegistryConfig, register
from components.tracking.tags import RUN_ID_TAG

_ORDER = ("fail", "warn", "pass")


def run_quality_gate(context: RunContext, config: RegistryConfig, evaluations: Sequence[Path], exported: Path) -> str:
    """Enforce the gates of all evaluations, then register the exported model.

    Args:
        context: The pipeline run.
        config: Where a model that passes every gate is registered.
        evaluations: The evaluations' stage folders.
        exported: The exported model's stage folder.

    Returns:
        Number of the registered version; empty where nothing was registered.

    Raises:
        StageError: A gate with the action "fail" is missed, or MLflow refuses the model.
        ConfigurationError: A model is to be registered, but tracking is off.
    """
    scores = {read_manifest(folder).stage.partition("/")[2]: read_scores(folder) for folder in evaluations}
    with pipeline_tracker(context) as tracker:
        for name, found in scores.items():
            if found.gates:
                worst = min((gate.outcome for gate in found.gates), key=_ORDER.index)
                tracker.set_tags({f"vlm.gate.{name}": worst, f"vlm.gate.{name}.judged": "\n".join(_gate_lines(found))})
    enforce_gates(evaluations)
    if not config.name:
        return ""
    missed = [name for name, found in scores.items() if not all(gate.passed for gate in found.gates)]
    if missed:
        print(f"WARNING: the model is not registered as {config.name}: {', '.join(missed)} missed a gate", flush=True)
        return ""
    version = register(
        context.tracking_uri,
        config,
        folder=exported,
        identity=input_identity(exported),
        run_id=context.mlflow_run_id,
        tags=_tags(context, scores, exported),
        description=_description(context, scores, exported),
    )
    alias = f" as {config.alias}" if config.alias else ""
    print(f"registered: {config.name}, version {version}{alias}", flush=True)
    return version


def _gate_lines(scores: Scores) -> list[str]:
    return [
        f"{gate.outcome}: {gate.requirement}, measured {gate.measured}" + (f"; {gate.note}" if gate.note else "")
        for gate in scores.gates
    ]


def _tags(context: RunContext, scores: dict[str, Scores], exported: Path) -> dict[str, str]:
    tags = {RUN_ID_TAG: context.run_id, "vlm.run_name": context.run_name, "vlm.git_commit": context.git_commit}
    for name, identity in read_manifest(exported).inputs.items():
        tags[f"vlm.made_from.{name}"] = identity
    for name, found in scores.items():
        tags[f"vlm.checkpoint.{name}"] = found.checkpoint
        tags[f"vlm.dataset.{name}"] = found.dataset
        tags[f"vlm.prompt.{name}"] = found.prompt_version
        tags[f"vlm.partial.{name}"] = found.partial
        for metric, measure in found.metrics.items():
            tags[f"vlm.score.{name}.{metric}"] = _text(measure)
    return {name: value for name, value in tags.items() if value}


def _description(context: RunContext, scores: dict[str, Scores], exported: Path) -> str:
    rows = [
        f"| {name} | {found.label(metric)} | {_text(measure)} | {found.n_scored} of {found.n_dataset}{' (PARTIAL)' if found.partial else ''} |"
        for name, found in scores.items()
        for metric, measure in found.metrics.items()
    ]
    commit = f", commit {context.git_commit[:12]}" if context.git_commit else ""
    return "\n".join(
        [
            f"Made by run {context.run_name} ({context.run_id}){commit}; the model lies in `{exported}`.",
            "",
            "| evaluation | metric | points (95 % interval) | samples |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _text(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return f"{measure.value:.1f}"
    return f"{measure.value:.1f} ({measure.low:.1f} to {measure.high:.1f})"
