"""The evaluation stage: predictions and ground truth to scores, sample pictures and a page that shows both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.context import RunContext
from components.download.task_data import evaluation_data
from components.errors import StageError
from components.evaluate.baseline import find_baselines, read_baseline
from components.evaluate.config import EVALUATION_PREFIX, EvaluateConfig
from components.evaluate.seen import SeenInTraining, seen_in_training
from components.metrics.registry import find_metric
from components.published_model.stage import published_name
from components.stage.part import part_of
from components.stage.runner import StageOutput, StageWork, input_identity, run_stage
from components.storage.atomic import write_text
from components.storage.checksum import sha256_file
from components.tasks.kinds.captioning import TRAINING_CAPTIONS
from components.tasks.loading import load_samples, load_task, task_identity
from components.tasks.picture_marks import without_marks
from components.tasks.registry import find_kind
from components.tasks.task import Task

if TYPE_CHECKING:
    from components.evaluate.coverage import Generation
    from components.evaluate.gates import Rival
    from components.evaluate.samples import ShownSample
    from components.evaluate.scores import GateResult, Scores
    from components.tasks.kind import Answer
    from components.tasks.sample import HeldOutSample

VERSION = 6
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
    data = evaluation_data(raw, task)
    samples = load_samples(raw, task)
    shown = {name for sample in samples for name in (sample.image, *sample.images)}
    seen = seen_in_training(context, model, raw, shown, {without_marks(sample.question) for sample in samples})
    generation = collect_partitions(predictions, task, model, data.identity, allow_partial=config.allow_partial)
    baselines = find_baselines(context, config.gates, name or task.name, config.task)

    def body(work: StageWork) -> dict[str, Any]:
        rivals = {reference: read_baseline(baseline) for reference, baseline in baselines.items()}
        return _evaluate(context, config, task, samples, generation, model, raw, rivals, seen, work)

    return run_stage(
        context,
        stage=f"{EVALUATION_PREFIX}{name or task.name}",
        version=VERSION,
        inputs={
            "model": model,
            "raw": data,
            "seen in training": seen.sentence,
            # Of these a constant answer is made.
            **({"captions": part_of(raw, [TRAINING_CAPTIONS])} if (raw / TRAINING_CAPTIONS).is_file() else {}),
            "task": task_identity(task),
            "metrics": ", ".join(find_metric(name).key for name in task.metrics),
            **{f"predictions {number}": folder for number, (_, folder) in enumerate(generation.folders)},
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
    task: Task,
    asked: "Sequence[HeldOutSample]",
    generation: "Generation",
    model: Path,
    raw: Path,
    rivals: "Mapping[str, Rival]",
    seen: SeenInTraining,
    work: StageWork,
) -> dict[str, Any]:
    # Imported here, so that a reused stage does not wait for numpy and PIL.
    from components.evaluate.coverage import merge_predictions
    from components.evaluate.gates import judge
    from components.evaluate.page import render_evaluation
    from components.evaluate.sample_scores import read_sample_scores, write_sample_scores
    from components.evaluate.samples import Samples, write_samples
    from components.evaluate.scores import Presentation, PublishedFigure, Scores, why_partial, write_scores
    from components.evaluate.scoring import score
    from components.stage.provenance import SCORING, library_versions, model_fingerprint
    from components.tasks.kind import MODEL

    kind, headline = find_kind(task.kind), find_metric(task.headline)
    metrics = [find_metric(name) for name in task.metrics]
    if sha256_file(raw / task.dataset) != generation.dataset:
        raise StageError(
            f"{raw / task.dataset} is not the ground truth that the predictions were generated for: it was changed since. "
            "Generate again."
        )
    expected = asked[: generation.expected]
    merged = merge_predictions(generation, [sample.id for sample in expected], allow_partial=config.allow_partial)
    samples = [expected[row] for row in merged.rows]
    texts = {control: [prediction.text for prediction in found] for control, found in merged.predictions.items()}
    work.progress.start("scoring", None, "answers")
    scored = score(config, task, samples, texts, raw)
    findings = scored.findings
    for note in findings.notes:
        print(f"WARNING: {note}", flush=True)
    scores = Scores(
        task=task.name,
        kind=task.kind,
        headline=task.headline,
        n_expected=len(expected),
        n_scored=len(samples),
        n_dataset=generation.available,
        duplicates=merged.duplicates,
        missing=list(merged.missing),
        empties=sum(not text for text in texts[MODEL]),
        metrics=scored.metrics,
        controls=scored.controls,
        differences=scored.differences,
        categories=scored.categories,
        unparsed=findings.unparsed,
        constant=findings.constant,
        tokenizer=findings.tokenizer,
        listed=findings.listed,
        prompt=task.prompt.template,
        prompt_version=f"{task.name} {task.version}",
        task_identity=task_identity(task),
        dataset=generation.dataset,
        dataset_file=task.dataset,
        checkpoint=input_identity(model),
        checkpoint_files=model_fingerprint(model),
        published=published_name(model),
        versions={"generate": generation.versions, "evaluate": library_versions(SCORING)},
        generation=generation.identity,
        bootstrap_samples=config.bootstrap_samples,
        git_commit=context.git_commit,
        notes=findings.notes,
        presentation=Presentation(
            title=task.heading,
            labels={metric.name: metric.label for metric in metrics},
            directions={metric.name: metric.direction for metric in metrics},
            noun=kind.noun,
            scale=headline.unit,
            full_scale=headline.full_scale,
            lead=kind.lead,
            method=findings.method,
            columns=task.columns,
            published=tuple(PublishedFigure(**figure.model_dump()) for figure in task.published),
        ),
        seen=seen,
        partial=why_partial(len(samples), len(expected), generation.available, merged.duplicates, kind.noun),
    )
    write_sample_scores(work.folder, samples, texts[MODEL], findings.statistics[MODEL])
    if config.gates:
        gates = judge(config.gates, scores, read_sample_scores(work.folder), rivals)
        refused = scores.partial and not config.gate_partial
        scores = scores.model_copy(update={"gates": [_refused(gate) for gate in gates] if refused else gates})
    shown = _show(samples, findings.answers, config.samples, raw, work)
    write_samples(work.folder, Samples(task=task.name, samples=shown))
    write_text(work.folder / PAGE_FILE, render_evaluation(scores, shown, work.folder))
    write_scores(work.folder, scores)
    print(f"{task.name}: {scores.meaning} {seen.sentence}", flush=True)
    return _facts(scores)


def _show(
    samples: "Sequence[HeldOutSample]",
    answers: "Mapping[str, Sequence[Answer]]",
    count: int,
    raw: Path,
    work: StageWork,
) -> "list[ShownSample]":
    """Choose the samples that are shown, and save their pictures."""
    from components.data.pictures import Pictures
    from components.evaluate.samples import ShownSample, choose_rows, save_thumbnail

    rows = choose_rows(samples, count)
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
                    answers={control: found[row] for control, found in answers.items()},
                )
            )
            work.progress.update(len(shown))
    return shown


def _refused(gate: "GateResult") -> "GateResult":
    return gate.model_copy(update={"passed": False, "measured": f"{gate.measured} on a partial score"})


def _facts(scores: "Scores") -> dict[str, Any]:
    """Return the scores as flat numbers, for lineage and tracking."""
    return {
        **{name: measure.value for name, measure in scores.metrics.items()},
        "controls": {control: values[scores.headline].value for control, values in scores.controls.items()},
        **({"partial": scores.partial} if scores.partial else {}),
        "n_expected": scores.n_expected,
        "n_scored": scores.n_scored,
        "n_dataset": scores.n_dataset,
        "duplicates": scores.duplicates,
        "empties": scores.empties,
        "gates_failed": sum(not gate.passed for gate in scores.gates),
        **({"published": scores.published} if scores.published else {}),
    }
