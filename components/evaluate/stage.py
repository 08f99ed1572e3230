"""The evaluation stage: predictions and ground truth to scores, sample pictures and a page that shows both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluate.baseline import find_baselines, read_baseline
from components.evaluate.config import EvaluateConfig
from components.generate.task import load_task
from components.stage.context import RunContext
from components.stage.runner import StageOutput, StageWork, input_identity, run_stage

if TYPE_CHECKING:
    from components.evaluate.gates import Rival

VERSION = 2
PAGE_FILE = "evaluation.html"
# Kept in MLflow: what people look at, and what a later run is compared with.
ARTIFACTS = ("scores.json", "sample_scores.jsonl", PAGE_FILE)


def run_evaluate(
    context: RunContext, config: EvaluateConfig, predictions: Sequence[Path], model: Path, raw: Path, name: str = ""
) -> StageOutput:
    """Score the predictions of all partitions of a task.

    Args:
        context: The pipeline run.
        config: Task, gates, intervals.
        predictions: The generation's folders, one per partition, in any order.
        model: The model folder that they were generated with.
        raw: The raw dataset folder that they were generated from.
        name: Name of the evaluation, the task's by default.

    Returns:
        A folder with `scores.json`, `sample_scores.jsonl`, `samples.json`, `pictures/` and `evaluation.html`. Gates are
        judged, not enforced: `gates.enforce_gates` does that once everything is published.

    Raises:
        ConfigurationError: A gate's baseline does not exist.
        StageError: The predictions have gaps or duplicates, or don't belong to this model, dataset or task.
    """
    from components.evaluate.coverage import collect_partitions

    task = load_task(config.task)
    generation = collect_partitions(predictions, task, model, raw)
    baselines = find_baselines(context, config.gates, name or task.name)

    def body(work: StageWork) -> dict[str, Any]:
        rivals = {reference: read_baseline(context, baseline) for reference, baseline in baselines.items()}
        return _evaluate(context, config, model, raw, predictions, rivals, work)

    return run_stage(
        context,
        stage=f"evaluate/{name or task.name}",
        version=VERSION,
        inputs={
            "model": model,
            "raw": raw,
            "task": task.identity,
            **{f"predictions {number}": folder for number, folder in enumerate(generation.folders)},
            # What a name or an alias stands for may change; the judgement belongs to what it stood for.
            **{f"baseline {reference}": baseline.identity for reference, baseline in baselines.items()},
        },
        settings=config,
        body=body,
        artifacts=ARTIFACTS,
    )


def _evaluate(
    context: RunContext,
    config: EvaluateConfig,
    model: Path,
    raw: Path,
    predictions: Sequence[Path],
    rivals: "Mapping[str, Rival]",
    work: StageWork,
) -> dict[str, Any]:
    # Imported here, so that a reused stage does not wait for numpy and PIL.
    from components.evaluate.coverage import collect_partitions, merge_predictions
    from components.evaluate.gates import judge
    from components.evaluate.page import write_page
    from components.evaluate.sample_scores import read_sample_scores, write_sample_scores
    from components.evaluate.samples import Samples, ShownSample, choose_rows, save_thumbnail, write_samples
    from components.evaluate.scores import Scores, write_scores
    from components.evaluate.scoring import MODEL, score_captions, score_choices
    from components.generate.dataset import Pictures, load_samples

    task = load_task(config.task)
    generation = collect_partitions(predictions, task, model, raw)
    samples = load_samples(raw, task)[: generation.expected]
    merged = merge_predictions(generation, [sample.id for sample in samples])
    texts = {control: [prediction.text for prediction in found] for control, found in merged.items()}
    work.progress.start("scoring", None, "answers")
    score = score_captions if task.kind == "captioning" else score_choices
    scored = score(config, task, samples, texts, raw)
    for note in scored.notes:
        print(f"WARNING: {note}", flush=True)
    scores = Scores(
        task=task.name,
        kind=task.kind,
        headline=task.headline,
        n_expected=len(samples),
        n_scored=len(texts[MODEL]),
        n_dataset=generation.available,
        duplicates=0,
        empties=sum(not text for text in texts[MODEL]),
        metrics=scored.metrics,
        controls=scored.controls,
        differences=scored.differences,
        categories=scored.categories,
        unparsed=scored.unparsed,
        constant=scored.constant,
        tokenizer=scored.tokenizer,
        prompt=task.prompt.template,
        prompt_version=f"{task.name} {task.version}",
        dataset=generation.dataset,
        dataset_file=task.dataset,
        checkpoint=input_identity(model),
        generation=generation.identity,
        bootstrap_samples=config.bootstrap_samples,
        git_commit=context.git_commit,
        notes=scored.notes,
    )
    write_sample_scores(work.folder, samples, texts[MODEL], scored.statistics)
    if config.gates:
        gates = judge(config.gates, scores, read_sample_scores(work.folder), rivals)
        scores = scores.model_copy(update={"gates": gates})
    rows = choose_rows(samples, config.samples)
    work.progress.start("saving pictures", len(rows), "pictures")
    shown = []
    with Pictures(raw) as pictures:
        for row in rows:
            sample = samples[row]
            shown.append(
                ShownSample(
                    id=sample.id,
                    picture=save_thumbnail(pictures, sample, work.folder),
                    prompt=sample.prompt,
                    question=sample.question,
                    options=sample.options,
                    answer=sample.answer,
                    category=sample.category,
                    references=sample.references,
                    answers={control: answers[row] for control, answers in scored.answers.items()},
                )
            )
            work.progress.update(len(shown))
    write_samples(work.folder, Samples(task=task.name, samples=shown))
    write_page(work.folder, scores, shown)
    write_scores(work.folder, scores)
    print(f"{task.name}: {scores.meaning}", flush=True)
    return _facts(scores)


def _facts(scores: Any) -> dict[str, Any]:
    """Return the scores as flat numbers, for lineage and tracking."""
    return {
        **{name: measure.value for name, measure in scores.metrics.items()},
        "controls": {control: values[scores.headline].value for control, values in scores.controls.items()},
        "n_scored": scores.n_scored,
        "empties": scores.empties,
        "gates_failed": sum(not gate.passed for gate in scores.gates),
    }
