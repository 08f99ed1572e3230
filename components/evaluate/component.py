"""KFP shells of the evaluation and of its quality gates."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate(
    context: dict,
    settings: dict,
    predictions: dsl.Input[list[dsl.Dataset]],
    model: dsl.Input[dsl.Model],
    raw: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    samples: dsl.Output[dsl.HTML],
):
    """Score the predictions of all partitions, beside controls that show what the score is worth.

    Args:
        context: Run context from open_run.
        settings: `EvaluateConfig`: task, gates, intervals.
        predictions: The generation's output of every partition.
        model: Model folder that generated them.
        raw: Raw dataset with pictures and ground truth.
        scores: Scores with intervals and controls (`scores.json`), and sample pictures.
        metrics: The model's scores.
        samples: Page with scores, pictures and answers.
    """
    import shutil

    from components.evaluate.config import EvaluateConfig
    from components.evaluate.scores import read_scores
    from components.evaluate.stage import PAGE_FILE, run_evaluate
    from components.stage.context import RunContext
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        output = run_evaluate(
            RunContext.model_validate(context),
            EvaluateConfig.model_validate(settings),
            predictions=[folder_of(artifact) for artifact in predictions],
            model=folder_of(model),
            raw=folder_of(raw),
        )
        publish(scores, output)
        for name, value in read_scores(output.folder).kfp_metrics().items():
            metrics.log_metric(name, value)
        shutil.copyfile(output.folder / PAGE_FILE, samples.path)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def quality_gate(captioning: dsl.Input[dsl.Artifact], multiple_choice: dsl.Input[dsl.Artifact]):
    """End the run in failure if a model misses a gate; runs after the report, so that there is something to look at.

    Args:
        captioning: Scores of the captioning evaluation.
        multiple_choice: Scores of the multiple-choice evaluation.
    """
    from components.evaluate.gates import enforce_gates
    from components.stage.pointer import folder_of
    from components.stage.shell import reported_errors

    with reported_errors():
        enforce_gates([folder_of(captioning), folder_of(multiple_choice)])
