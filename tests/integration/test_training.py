"""The training engine with real torchrun: exact resume, parallelism, what is frozen, what stops it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from components.errors import StageError
from components.launch.config import LaunchConfig
from components.launch.job import TrainingJob
from components.launch.local import run_local, terminate_tree
from components.tracking.tracker import METRICS_FILE
from components.training.checkpoints import checkpoints
from components.training.config import Recipe
from components.training.metrics import read_metrics
from components.training.spec import TrainingSpec
from components.training.worker import PREEMPTED_EXIT_CODE
from components.training.zero_shot import METRIC
from tests.integration.conftest import Chain
from tests.unit import data_samples

ITERATIONS = 12
TORCHRUN_LOG = "torchrun.log"
RECIPE = {
    "train_language": True,
    "train_vision": True,
    "prompt_format": "plain",
    "iterations": ITERATIONS,
    "global_batch_size": 8,
    "sequence_length": 512,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "warmup_fraction": 0.1,
    "evaluation_interval": 6,
    "evaluation_samples": 8,
    "save_interval": 3,
    "log_interval": 1,
    "shuffle_buffer": 50,
}


def _spec(chain: Chain, folder: Path, tensor_parallel: int, dataset: Path | None = None, **recipe: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    spec = TrainingSpec(
        stage="pretrain",
        recipe=Recipe.model_validate({**RECIPE, **recipe}),
        tensor_parallel=tensor_parallel,
        model_folder=chain.model,
        dataset_folder=dataset or chain.dataset,
        output_folder=folder,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


def _train(chain: Chain, folder: Path, processes: int = 2, tensor_parallel: int = 2, **recipe: object) -> Path:
    """Train to the end and return the output folder."""
    spec = _spec(chain, folder, tensor_parallel, **recipe)
    launch = LaunchConfig(processes_per_node=processes, tensor_parallel=tensor_parallel)
    run_local(TrainingJob("test", "components.training.worker", [str(spec)], folder / "logs", launch))
    return folder


def _curve(folder: Path) -> list[tuple[float, ...]]:
    """Return what must be equal in an interrupted run: everything but times."""
    keys = ("step", "loss", "gradient_norm", "learning_rate", "consumed_samples", "validation_loss")
    return [tuple(row[key] for key in keys if key in row) for row in read_metrics(folder / METRICS_FILE)]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read a distributed checkpoint whole, by PyTorch's own reader."""
    return _load_state_dict_from_keys(storage_reader=FileSystemReader(folder / "checkpoint"))


def _rows(folder: Path) -> int:
    path = folder / METRICS_FILE
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run at tensor parallel 2 that was never stopped, with dropout so that random state matters."""
    return _train(chain, tmp_path_factory.mktemp("uninterrupted"), hidden_dropout=0.1)


@pytest.fixture(scope="module")
def without_dropout(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run at tensor parallel 1 whose losses other parallel layouts must reach."""
    return _train(chain, tmp_path_factory.mktemp("alone"), processes=1, tensor_parallel=1)


def _start(spec: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--module", "components.training.worker", str(spec)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with open(spec.parent / TORCHRUN_LOG, "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that a failing test must not leave behind."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        terminate_tree(process.pid, grace_s=0)


def _wait_for_rows(folder: Path, rows: int) -> None:
    deadline = time.monotonic() + 120
    while _rows(folder) < rows:
        assert time.monotonic() < deadline, "training did not get going"
        time.sleep(0.01)


def test_killed_at_random_moments_equals_uninterrupted_bit_for_bit(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    spec = _spec(chain, tmp_path, 2, hidden_dropout=0.1)
    moments = random.Random(time.time_ns())
    for first_row in (4, 8):
        process = _start(spec)
        started.append(process)
        # The extra delay may fall into a step, into a checkpoint that is being written, or between the two.
        _wait_for_rows(tmp_path, first_row)
        time.sleep(moments.uniform(0, 0.6))
        for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            victim.send_signal(signal.SIGKILL)
        process.wait()
        assert checkpoints(tmp_path / "training")
    _train(chain, tmp_path, hidden_dropout=0.1)
    assert _curve(tmp_path) == _curve(uninterrupted)
    expected, found = _weights(uninterrupted), _weights(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_terminated_saves_says_so_and_goes_on_exactly(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process = _start(_spec(chain, tmp_path, 2, hidden_dropout=0.1))
    started.append(process)
    _wait_for_rows(tmp_path, 4)
    workers = psutil.Process(process.pid).children()
    workers[0].send_signal(signal.SIGTERM)  # one rank is told, both stop after the same step
    assert process.wait(timeout=60) != 0
    assert f"exitcode  : {PREEMPTED_EXIT_CODE}" in (tmp_path / TORCHRUN_LOG).read_text()
    rows = _rows(tmp_path)
    assert rows < ITERATIONS
    assert checkpoints(tmp_path / "training")[-1].name == f"iter_{rows:07d}"
    _train(chain, tmp_path, hidden_dropout=0.1)
    assert _curve(tmp_path) == _curve(uninterrupted)


@pytest.mark.parametrize(
    ("processes", "tensor_parallel"), [(2, 2), (2, 1)], ids=["tensor parallel 2", "data parallel 2"]
)
def test_parallel_layouts_give_the_same_losses(
    chain: Chain, without_dropout: Path, tmp_path: Path, processes: int, tensor_parallel: int
) -> None:
    folder = _train(chain, tmp_path, processes, tensor_parallel)
    rows, expected = read_metrics(folder / METRICS_FILE), read_metrics(without_dropout / METRICS_FILE)
    assert [row["consumed_samples"] for row in rows] == [row["consumed_samples"] for row in expected]
    if tensor_parallel == 2:  # data-parallel ranks draw other samples; only their number is the same
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=2e-4)
        assert [row["gradient_norm"] for row in rows] == pytest.approx(
            [row["gradient_norm"] for row in expected], rel=2e-2
        )
    else:
        assert rows[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.1)
        assert rows[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], rel=0.1)


def test_training_goes_on_at_another_tensor_parallel_size(
    chain: Chain, without_dropout: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process = _start(_spec(chain, tmp_path, 2))
    started.append(process)
    _wait_for_rows(tmp_path, 7)
    terminate_tree(process.pid, grace_s=0)
    folder = _train(chain, tmp_path, processes=1, tensor_parallel=1)
    losses = [row["loss"] for row in read_metrics(folder / METRICS_FILE)]
    assert losses == pytest.approx([row["loss"] for row in read_metrics(without_dropout / METRICS_FILE)], abs=2e-4)


def test_it_learns(uninterrupted: Path) -> None:
    losses = [row["loss"] for row in read_metrics(uninterrupted / METRICS_FILE)]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_parts_stay_bit_for_bit_and_the_projector_moves(chain: Chain, tmp_path: Path, precision: str) -> None:
    folder = _train(
        chain,
        tmp_path,
        1,
        1,
        train_language=False,
        train_vision=False,
        iterations=4,
        save_interval=2,
        precision=precision,
    )
    before, after = _weights(chain.model), _weights(folder)
    frozen = [name for name in before if not name.startswith("vision_projection.")]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert frozen
    assert all(torch.equal(before[name].to(dtype), after[name]) for name in frozen)
    assert not any(torch.equal(before[name].to(dtype), after[name]) for name in before if name not in frozen)
    (kept,) = checkpoints(folder / "training")
    state = _weights(kept)
    moments = [name for name in state if name.startswith("optimizer.exp_avg.")]
    assert moments
    assert all(name.startswith("optimizer.exp_avg.vision_projection.") for name in moments)
    assert any(name.startswith("optimizer.master.") for name in state) == (precision == "bf16")


def test_diverging_loss_stops_with_the_last_good_checkpoint(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training diverged.*Last good checkpoint"):
        _train(chain, tmp_path, 1, 1, learning_rate=1e30, min_learning_rate=1e30, clip_grad=0, save_interval=1)


@pytest.mark.parametrize("texts", ["alone", "beside pictures"])
def test_texts_without_a_picture_train(chain: Chain, tmp_path: Path, texts: str) -> None:
    entries = [data_samples.dialogue_entry(number, with_picture=False) for number in range(60)]
    pictures = {}
    if texts == "beside pictures":
        for number in range(0, 60, 2):
            entries[number] = data_samples.dialogue_entry(number)
            pictures[entries[number]["image"]] = data_samples.picture(number)
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    dataset = data_samples.make_dataset(tmp_path, raw)
    # Only the projector trains: texts give it no gradient at all.
    recipe = {"prompt_format": "instruct", "train_language": False, "train_vision": False, "iterations": 4}
    folder = _train(chain, tmp_path / "training", dataset=dataset, **recipe, evaluation_interval=2)
    rows = read_metrics(folder / METRICS_FILE)
    assert [row["consumed_samples"] for row in rows] == [8, 16, 24, 32]
    assert all(row["loss"] > 0 for row in rows)
    assert all((row["gradient_norm"] > 0) == (texts == "beside pictures") for row in rows)
    assert rows[-1]["validation_loss"] > 0


def test_fewer_data_parallel_ranks_go_on_with_the_same_global_batches(
    chain: Chain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steady = {"min_learning_rate": RECIPE["learning_rate"], "warmup_fraction": 0, "evaluation_interval": 0}
    whole = _train(chain, tmp_path / "whole", 2, 1, **steady)
    folder = _train(chain, tmp_path / "changed", 2, 1, **steady, iterations=7)
    assert checkpoints(folder / "training")[-1].name == "iter_0000006"
    _train(chain, folder, 1, 1, **steady)
    assert "the same global batches, from 2 loader processes per rank" in capfd.readouterr().out
    rows, expected = read_metrics(folder / METRICS_FILE), read_metrics(whole / METRICS_FILE)
    assert [row["consumed_samples"] for row in rows] == [row["consumed_samples"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=2e-4)


def test_other_number_of_data_parallel_ranks_is_refused(chain: Chain, tmp_path: Path) -> None:
    _train(chain, tmp_path, 1, 1, iterations=4, save_interval=2)
    with pytest.raises(StageError, match="data-parallel ranks"):
        _train(chain, tmp_path, 2, 1, iterations=6, save_interval=2)


def test_describing_held_out_pictures_changes_nothing_else(chain: Chain, uninterrupted: Path, tmp_path: Path) -> None:
    folder = _train(chain, tmp_path, hidden_dropout=0.1, caption_interval=5, caption_samples=6)
    assert _curve(folder) == _curve(uninterrupted)
    expected, found = _weights(uninterrupted), _weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    scores = {row["step"]: row[METRIC] for row in read_metrics(folder / METRICS_FILE) if METRIC in row}
    assert list(scores) == [5, 10, ITERATIONS]
    assert all(score >= 0 for score in scores.values())
    for step in scores:
        content = (folder / "zero_shot" / f"step_{step:07d}.html").read_text()
        assert content.count('<img src="data:image/jpeg;base64,') == 6
        assert f"CIDEr {scores[step]:.1f}" in content
