"""Puts the predictions of all partitions together and refuses gaps, duplicates and mixtures.

Gaps and duplicates can be allowed, and are then counted and named; what belongs to something else never is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import StageError
from components.stage.manifest import Manifest, read_manifest
from components.stage.runner import input_identity
from components.tasks.loading import task_identity
from components.tasks.task import Task

PREDICTIONS_FILE = "predictions.jsonl"
_SHOWN = 5


class Prediction(BaseModel):
    """One line of `predictions.jsonl`; see the generation stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    control: str
    image: str
    images: tuple[str, ...] = ()
    prompt: str
    text: str
    generation: str
    category: str = ""


@dataclass(frozen=True)
class Generation:
    """The finished partitions of one generation, in order.

    Attributes:
        folders: Number and folder of every partition; all numbers once, unless gaps and duplicates are allowed.
        partitions: How many partitions there should be.
        controls: What the model was shown.
        dataset: SHA-256 of the ground truth file.
        identity: Hash of everything that decides the predictions.
        expected: Samples that had to be answered.
        available: Samples of the whole ground truth.
        versions: Library to version, where it was generated.
    """

    folders: tuple[tuple[int, Path], ...]
    partitions: int
    controls: tuple[str, ...]
    dataset: str
    identity: str
    expected: int
    available: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Merged:
    """Predictions of all partitions.

    Attributes:
        rows: Numbers of the samples that have a prediction under every control, in order; all of them, unless gaps are
            allowed.
        predictions: Control to the predictions of these samples.
        missing: What has no prediction, by name.
        duplicates: Predictions beyond the first of a sample and control.
    """

    rows: tuple[int, ...]
    predictions: dict[str, list[Prediction]]
    missing: tuple[str, ...]
    duplicates: int


def collect_partitions(
    folders: Sequence[Path], task: Task, model: Path, data: str, *, allow_partial: bool = False
) -> Generation:
    """Check that the folders are all partitions of one generation with this task, model and dataset.

    Args:
        folders: Folders of partitions, in any order.
        task: The task.
        model: Model folder.
        data: Identity of the task's data.
        allow_partial: Whether partitions may be missing or be there twice.

    Raises:
        StageError: A partition is missing or there twice, or the folders don't belong together.
    """
    if not folders:
        raise StageError("There are no predictions to evaluate: the generation gave no partition.")
    manifests = sorted(((read_manifest(folder), folder) for folder in folders), key=lambda item: _partition(*item))
    for manifest, folder in manifests:
        _check_origin(manifest, folder, task, model, data)
        _check_whole(manifest, folder)
    first = manifests[0][0].facts
    for manifest, folder in manifests:
        if manifest.facts["generation"] != first["generation"]:
            raise StageError(
                f"{folder} was generated with other settings than {manifests[0][1]}; the partitions of one evaluation "
                "must come from one generation. Generate all of them again with the same settings."
            )
    partitions = int(first["partitions"])
    counts = Counter(int(manifest.facts["partition"]) for manifest, _ in manifests)
    missing = [number for number in range(partitions) if not counts[number]]
    repeated = [number for number, count in counts.items() if count > 1]
    if (missing or repeated) and not allow_partial:
        raise StageError(
            f"Task {task.name} was generated in {partitions} partitions, numbered from 0: missing {_list(missing)}; "
            f"there more than once {_list(repeated)}. A score needs every partition once."
        )
    return Generation(
        folders=tuple((int(manifest.facts["partition"]), folder) for manifest, folder in manifests),
        partitions=partitions,
        controls=tuple(first["controls"]),
        dataset=str(first["dataset"]),
        identity=str(first["generation"]),
        expected=int(first["samples_expected"]),
        available=int(first["samples_dataset"]),
        versions=dict(first.get("versions", {})),
    )


def merge_predictions(generation: Generation, sample_ids: Sequence[str], *, allow_partial: bool = False) -> Merged:
    """Read all predictions.

    Args:
        generation: The partitions.
        sample_ids: Ids of all samples that had to be answered, in order.
        allow_partial: Whether samples may have no prediction, or several, of which the first one counts.

    Raises:
        StageError: A sample has no prediction or several, or a prediction belongs to no sample.
    """
    found: dict[str, dict[str, Prediction]] = {control: {} for control in generation.controls}
    repeated: list[str] = []
    unknown: list[str] = []
    known = set(sample_ids)
    for number, folder in generation.folders:
        for prediction in _read(folder / PREDICTIONS_FILE, generation.identity):
            name = f"{prediction.id} ({prediction.control}, partition {number})"
            if prediction.id not in known or prediction.control not in found:
                unknown.append(name)
            elif prediction.id in found[prediction.control]:
                repeated.append(name)
            else:
                found[prediction.control][prediction.id] = prediction
    missing = [
        f"{sample} ({control}, partition {row % generation.partitions})"
        for control, predictions in found.items()
        for row, sample in enumerate(sample_ids)
        if sample not in predictions
    ]
    rows = [
        row for row, sample in enumerate(sample_ids) if all(sample in predictions for predictions in found.values())
    ]
    if unknown or not rows or ((missing or repeated) and not allow_partial):
        problems = {"more than once": repeated, "unknown": unknown, "missing": missing}
        listed = "; ".join(f"{kind}: {_list(names)}" for kind, names in problems.items() if names)
        raise StageError(
            f"The predictions don't cover the {len(sample_ids)} samples once each. {listed}. Delete the generation's "
            "folders and generate again."
        )
    return Merged(
        rows=tuple(rows),
        predictions={control: [predictions[sample_ids[row]] for row in rows] for control, predictions in found.items()},
        missing=tuple(missing),
        duplicates=len(repeated),
    )


def _partition(manifest: Manifest, folder: Path) -> tuple[int, str]:
    return int(manifest.facts.get("partition", 0)), str(folder)


def _check_origin(manifest: Manifest, folder: Path, task: Task, model: Path, data: str) -> None:
    expected = {"task": task_identity(task), "model": input_identity(model), "raw": data}
    for name, value in expected.items():
        if manifest.inputs.get(name) != value:
            raise StageError(
                f"{folder} holds predictions for {name} {manifest.inputs.get(name)!r}, but the evaluation was given "
                f"{value!r}. Evaluate with what was generated with, or generate again."
            )


def _check_whole(manifest: Manifest, folder: Path) -> None:
    path = folder / PREDICTIONS_FILE
    size = path.stat().st_size if path.is_file() else 0
    expected = manifest.files[PREDICTIONS_FILE].size if PREDICTIONS_FILE in manifest.files else 0
    if size != expected:
        raise StageError(
            f"{path} has {size} bytes, its manifest says {expected}: it was cut off or changed. Delete the folder and "
            "generate this partition again."
        )


def _read(path: Path, generation: str) -> Iterable[Prediction]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise StageError(f"{path} can't be read: {error.strerror}. Generate this partition again.") from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            prediction = Prediction.model_validate(json.loads(line))
        except (ValidationError, json.JSONDecodeError) as error:
            raise StageError(
                f"{path}, line {number} is not a prediction: {error}. Generate this partition again."
            ) from error
        if prediction.generation != generation:
            raise StageError(f"{path}, line {number} comes from another generation. Generate this partition again.")
        yield prediction


def _list(names: Sequence[object]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
