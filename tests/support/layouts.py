"""The same training in several parallel layouts: what the test of their equality and the table of it share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.spec import TrainingSpec
from tests.support.ranks import run_ranks

_STREAMS = 2


class Layout(NamedTuple):
    """How many processes share one copy of the model, and how many copies there are."""

    tensor_parallel: int
    data_parallel: int

    def __str__(self) -> str:
        return f"TP {self.tensor_parallel} x DP {self.data_parallel}"


REFERENCE = Layout(1, 1)
OTHERS = [Layout(2, 1), Layout(4, 1), Layout(1, 2), Layout(2, 2)]


class Difference(NamedTuple):
    """How far a run is from another one.

    Attributes:
        loss: Largest absolute difference of a step's loss.
        gradient_norm: Largest relative difference of a step's gradient norm.
        weights: Largest absolute difference of a final weight.
    """

    loss: float
    gradient_norm: float
    weights: float


def _train(spec: TrainingSpec) -> None:
    from components.training.trainer import train

    assert train(spec)


def _join(train: Callable[[TrainingSpec], object], spec: str) -> None:
    train(TrainingSpec.model_validate_json(spec))


def same_batches(layout: Layout, spec: TrainingSpec) -> TrainingSpec:
    """Return the training with the number of loader processes that gives every layout the same global batches.

    The order of samples follows from the number of streams: data-parallel ranks x loader processes.
    """
    recipe = spec.recipe.model_copy(update={"loader_workers": _STREAMS // layout.data_parallel})
    return spec.model_copy(update={"recipe": recipe})


def train_in(
    layout: Layout, spec: TrainingSpec, folder: Path, train: Callable[[TrainingSpec], object] = _train
) -> Path:
    """Train in real processes (gloo) to the end, or go on with what is in the folder.

    Args:
        layout: The processes.
        spec: The training, but for its layout and its output folder.
        folder: The output folder.
        train: What every process runs; a function of a module.

    Returns:
        The output folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = spec.model_copy(update={"tensor_parallel": layout.tensor_parallel, "output_folder": folder})
    run_ranks(layout.tensor_parallel * layout.data_parallel, _join, train, own.model_dump_json())
    return folder


def difference(folder: Path, reference: Path) -> Difference:
    """Compare two finished trainings step by step, and their weights."""
    rows, expected = read_metrics(folder / METRICS_FILE), read_metrics(reference / METRICS_FILE)
    drawn = [[(row["consumed_samples"], row["samples_fingerprint"]) for row in run] for run in (rows, expected)]
    assert drawn[0] == drawn[1]
    pairs = list(zip(rows, expected, strict=True))
    found_weights, weights = read_weights(folder), read_weights(reference)
    assert found_weights.keys() == weights.keys()
    return Difference(
        loss=max(abs(row["loss"] - other["loss"]) for row, other in pairs),
        gradient_norm=max(abs(row["gradient_norm"] / other["gradient_norm"] - 1) for row, other in pairs),
        weights=max(float((found_weights[name] - weights[name]).abs().max()) for name in weights),
    )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read a distributed checkpoint whole, by PyTorch's own reader."""
    return _load_state_dict_from_keys(storage_reader=FileSystemReader(folder / "checkpoint"))
