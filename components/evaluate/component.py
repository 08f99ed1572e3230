"""KFP shells of the evaluation and of its quality gates."""

from typing import NamedTuple

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate(
    context: dict,
    settings: dict,
    stage: str,
    predictions: dsl.Input[list[dsl.Dataset]],
    model: dsl.Input[dsl.Model],
    raw: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    samples: dsl.Output[dsl.HTML],
) -> NamedTuple("Evaluated", [("folder", str)]):
    """Score the predictions of all partitions, beside controls that show what the score is worth.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage, `evaluate/` and the evaluation's; its settings are an `EvaluateConfig`.
        predictions: The generation's output of every partition.
        model: Model folder that generated them.
        raw: Raw dataset with pictures and ground truth.
        scores: Scores with intervals and controls (`scores.json`), and sample pictures.
        metrics: The model's scores.
        samples: Page with scores, pictures and answers.

    Returns:
        The stage folder, for tasks that take the scores of all evaluations: KFP passes lists of parameters, not of artifacts.
    """
    import shutil
    from collections import namedtuple

    from components.context import RunContext
    from components.evaluate.config import EVALUATION_PREFIX, EvaluateConfig
    from components.evaluate.scores import read_scores
    from components.evaluate.stage import PAGE_FILE, run_evaluate
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_evaluate(
            RunContext.model_validate(context),
            EvaluateConfig.model_validate(settings[stage]),
            predictions=[folder_of(artifact) for artifact in predictions],
            model=folder_of(model),
            raw=folder_of(raw),
            name=stage.removeprefix(EVALUATION_PREFIX),
        )
        publish(scores, output)
        for metric, value in read_scores(output.folder).kfp_metrics().items():
            metrics.log_metric(metric, value)
        shutil.copyfile(output.folder / PAGE_FILE, samples.path)
    return namedtuple("Evaluated", ["folder"])(str(output.folder))


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def quality_gate(context: dict, settings: dict, stage: str, evaluations: list, exported: dsl.Input[dsl.Model]):
    """End the run in failure if a model misses a gate, else register it; runs when there is something to look at.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `RegistryConfig`.
        evaluations: Stage folders of the evaluations.
        exported: The exported model.
    """
    from pathlib import Path

    from components.context import RunContext
    from components.evaluate.quality_gate import run_quality_gate
    from components.stage.pointer import folder_of
    from components.stage.shell import reported_errors
    from components.tracking.registry import RegistryConfig

    with reported_errors():
        run_quality_gate(
            RunContext.model_validate(context),
            RegistryConfig.model_validate(settings[stage]),
            evaluations=[Path(folder) for folder in evaluations],
            exported=folder_of(exported),
        )
