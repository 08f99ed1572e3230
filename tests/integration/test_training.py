"""The training engine in real processes: exact resume, parallelism, what is frozen, what stops it."""

import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from components.context import RunContext
from components.errors import StageError
from components.export.source import ModelSource
from components.launch.classification import PREEMPTED_CODE
from components.launch.config import LaunchConfig
from components.launch.job import TrainingJob
from components.launch.local import run_local, terminate_tree
from components.model.distributed import single_process
from components.stage.manifest import check_files, read_manifest
from components.stage.runner import input_identity
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.checkpoint.integrity import problems
from components.training.checkpoint.layout import checkpoints
from components.training.config import MemoryConfig, Recipe, TrainingConfig
from components.training.spec import TrainingSpec
from components.training.stage import run_training
from components.training.summary import read_summary
from components.training.zero_shot import METRIC
from components.training.zero_shot_texts import read_texts
from tests.integration.conftest import Chain
from tests.support import data_samples
from tests.support.layouts import (
    OTHERS,
    REFERENCE,
    Difference,
    Layout,
    difference,
    read_weights,
    same_batches,
    train_in,
)
from tests.support.ranks import Ranks
from tests.support.small_training import ITERATIONS, RECIPE, write_spec
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.usefixtures("forked_launches")

OUTPUT = "output.log"
# What trains, and on which prompts, as the presets of real models have it.
PRETRAINING: dict[str, object] = {"train_language": False, "train_vision": False, "prompt_format": "plain"}
SFT: dict[str, object] = {"train_language": True, "train_vision": False, "prompt_format": "instruct"}
# A learning rate that does not depend on the number of iterations: a run that went to its end can go on.
STEADY: dict[str, object] = {
    "min_learning_rate": RECIPE["learning_rate"],
    "warmup_fraction": 0,
    "evaluation_interval": 0,
}


def _spec(chain: Chain, folder: Path, tensor_parallel: int, dataset: Path | None = None, **recipe: object) -> Path:
    return write_spec(chain.model, dataset or chain.dataset, folder, tensor_parallel, **recipe)


def _sharded(spec: TrainingSpec) -> TrainingSpec:
    return spec.model_copy(update={"memory": MemoryConfig(shard_optimizer=True)})


def _with_iterations(spec: TrainingSpec, iterations: int) -> TrainingSpec:
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"iterations": iterations})})


def _read_spec(path: Path) -> TrainingSpec:
    return TrainingSpec.model_validate_json(path.read_text())


def _train(chain: Chain, folder: Path, processes: int = 2, tensor_parallel: int = 2, **recipe: object) -> Path:
    """Train to the end in processes that are forked, and return the output folder."""
    spec = _read_spec(_spec(chain, folder, tensor_parallel, **recipe))
    return train_in(Layout(tensor_parallel, processes // tensor_parallel), spec, folder)


def _launch(chain: Chain, folder: Path, processes: int = 2, tensor_parallel: int = 2, **recipe: object) -> Path:
    """Train to the end as a stage does, by torchrun, and return the output folder."""
    spec = _spec(chain, folder, tensor_parallel, **recipe)
    launch = LaunchConfig(processes_per_node=processes, tensor_parallel=tensor_parallel)
    run_local(TrainingJob("test", "components.training.worker", [str(spec)], folder / "logs", launch))
    return folder


def _curve(folder: Path) -> list[tuple[float, ...]]:
    """Return what must be equal in an interrupted run: everything but times."""
    keys = ("step", "loss", "gradient_norm", "learning_rate", "consumed_samples", "validation_loss")
    keys += ("samples_fingerprint",)
    return [tuple(row[key] for key in keys if key in row) for row in read_metrics(folder / METRICS_FILE)]


def _rows(folder: Path) -> int:
    path = folder / METRICS_FILE
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run at tensor parallel 2 that was never stopped, with dropout so that random state matters."""
    return _launch(chain, tmp_path_factory.mktemp("uninterrupted"), hidden_dropout=0.1, keep_every=6)


def _work(spec: str) -> None:
    from components.training import worker

    sys.argv = ["worker", spec]
    sys.exit(worker.main())


@pytest.fixture
def started() -> Iterator[Callable[[Path], Ranks]]:
    """Starts a training of two processes, which a failing test does not leave behind."""
    all_ranks: list[Ranks] = []

    def start(spec: Path) -> Ranks:
        all_ranks.append(Ranks(2, _work, str(spec), output=spec.parent / OUTPUT))
        return all_ranks[-1]

    yield start
    for ranks in all_ranks:
        ranks.kill()


def _wait_for_rows(folder: Path, rows: int) -> None:
    wait_for(lambda: _rows(folder) >= rows, what=f"row {rows}")


def test_killed_at_random_moments_equals_uninterrupted_bit_for_bit(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: Callable[[Path], Ranks]
) -> None:
    spec = _spec(chain, tmp_path, 2, hidden_dropout=0.1)
    training = tmp_path / "training"
    ranks = started(spec)
    # A moment that depends on the run's own speed: it must not be over before.
    moment = random.Random(time.time_ns())
    _wait_for_rows(tmp_path, moment.randint(4, 7))
    time.sleep(moment.uniform(0, 0.05))
    ranks.kill()
    # While a checkpoint is written: its tensors are on the disk in part, and nothing but the rename makes it complete.
    ranks = started(spec)
    wait_for(
        lambda: _rows(tmp_path) >= 5 and any(training.glob("*.tmp/checkpoint/*.distcp")),
        look_s=0.001,
        what="checkpoint in writing",
    )
    ranks.kill()
    assert [path.suffix for path in training.glob("iter_*") if path.suffix] == [".tmp"]
    assert checkpoints(training)
    _train(chain, tmp_path, hidden_dropout=0.1)
    assert _curve(tmp_path) == _curve(uninterrupted)
    expected, found = read_weights(uninterrupted), read_weights(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_terminated_saves_says_so_and_goes_on_exactly(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: Callable[[Path], Ranks]
) -> None:
    ranks = started(_spec(chain, tmp_path, 2, hidden_dropout=0.1))
    _wait_for_rows(tmp_path, 4)
    ranks.signal(signal.SIGTERM, 0)  # one rank is told, both stop after the same step
    assert ranks.wait(60) == [PREEMPTED_CODE, PREEMPTED_CODE]
    rows = _rows(tmp_path)
    assert rows < ITERATIONS
    assert checkpoints(tmp_path / "training")[-1].name == f"iter_{rows:07d}"
    _train(chain, tmp_path, hidden_dropout=0.1)
    assert _curve(tmp_path) == _curve(uninterrupted)


def test_stage_whose_rank_is_killed_goes_on_by_itself(
    chain: Chain, uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.model_validate({**RECIPE, "hidden_dropout": 0.1})
    config = TrainingConfig(recipe=recipe, launch=LaunchConfig(processes_per_node=2, tensor_parallel=2))

    def checkpoint() -> bool:
        return any(_rows(path.parents[1]) >= 5 for path in tmp_path.glob("pretrain/*/training/iter_*[0-9]"))

    def kill_a_rank() -> None:
        wait_for(lambda: bool(_ranks_below(tmp_path)), what="rank")
        rank = _ranks_below(tmp_path)[0]
        wait_for(checkpoint, what="checkpoint")
        rank.kill()

    killer = threading.Thread(target=kill_a_rank)
    killer.start()
    output = run_training(
        RunContext(run_id="t", run_name="t", workspace=tmp_path), "pretrain", config, chain.model, chain.dataset
    )
    killer.join()
    assert re.search(
        r"pretrain starts again after step \d+: ended by a signal \(attempt 1 failed\)", capfd.readouterr().out
    )
    assert _curve(output.folder) == _curve(uninterrupted)


def _ranks_below(folder: Path) -> list[psutil.Process]:
    """Return the ranks of a training in a folder. What the server of forks starts is no descendant of this process."""
    commands = {one: one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])}
    ours = [one for one, command in commands.items() if any(str(folder) in argument for argument in command)]
    ranks = [one for one in ours if "components.training.worker" in commands[one]]
    return [one for one in ranks if "torch.distributed.run" not in commands[one]]


def test_second_training_of_a_folder_waits_and_goes_on_exactly(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: Callable[[Path], Ranks]
) -> None:
    """A pod that was deleted and its replacement run side by side for a while."""
    spec = _spec(chain, tmp_path, 2, hidden_dropout=0.1)
    first = started(spec)
    _wait_for_rows(tmp_path, 2)
    first.signal(signal.SIGSTOP)  # it would be over before the second has begun
    second = started(spec)
    wait_for(lambda: "is held by process" in (tmp_path / OUTPUT).read_text(), what="waiting second")
    assert _rows(tmp_path) < ITERATIONS
    first.kill()
    assert second.wait(120) == [0, 0], (tmp_path / OUTPUT).read_text()
    assert _curve(tmp_path) == _curve(uninterrupted)


@pytest.mark.parametrize(
    ("recipe", "layouts"),
    [(SFT, OTHERS), (PRETRAINING, [Layout(tensor_parallel=2, data_parallel=2)])],
    ids=["SFT", "pretraining"],
)
def test_parallel_layouts_give_the_same_training(
    chain: Chain, tmp_path: Path, recipe: dict[str, object], layouts: list[Layout]
) -> None:
    spec = _read_spec(_spec(chain, tmp_path, 1, iterations=20, save_interval=20, evaluation_interval=0, **recipe))
    reference = train_in(REFERENCE, same_batches(REFERENCE, spec), tmp_path / str(REFERENCE))
    assert len(_curve(reference)) == 20
    for layout in layouts:
        found = difference(train_in(layout, same_batches(layout, spec), tmp_path / str(layout)), reference)
        # In float32, sums in another order differ by about 1e-6; Adam turns that into up to 2e-5 of a weight.
        assert found.loss <= 5e-6, layout
        assert found.gradient_norm <= 1e-5, layout
        assert found.weights <= 1e-4, layout


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_optimizer_trains_bit_for_bit_like_the_whole_one(chain: Chain, tmp_path: Path, precision: str) -> None:
    spec = _read_spec(_spec(chain, tmp_path, 1, **SFT, **STEADY, precision=precision, iterations=5, save_interval=2))
    two = Layout(tensor_parallel=1, data_parallel=2)
    expected = train_in(two, spec, tmp_path / "whole")
    sharded = train_in(two, _sharded(spec), tmp_path / "sharded")
    assert difference(sharded, expected) == Difference(0, 0, 0)
    if precision == "fp32":
        return
    # The checkpoints hold the same, with and without shards.
    assert checkpoints(sharded / "training")[-1].name == "iter_0000004"
    newest = [read_weights(checkpoints(folder / "training")[-1]) for folder in (expected, sharded)]
    assert newest[0].keys() == newest[1].keys()
    assert all(torch.equal(newest[0][name], newest[1][name]) for name in newest[0])
    # So a run goes on bit for bit with shards where it had none, and the other way round.
    longer = [_with_iterations(one, 8) for one in (_sharded(spec), spec)]
    went_on = [train_in(two, one, folder) for one, folder in zip(longer, (expected, sharded), strict=True)]
    assert difference(*went_on) == Difference(0, 0, 0)


def test_killed_and_gone_on_at_another_tensor_parallel_size(
    chain: Chain, uninterrupted: Path, tmp_path: Path, started: Callable[[Path], Ranks]
) -> None:
    killed, handed_over = tmp_path / "killed", tmp_path / "handed_over"
    ranks = started(_spec(chain, killed, 2, hidden_dropout=0.1))
    wait_for(lambda: (killed / "training" / "iter_0000006").exists(), what="checkpoint of step 6")
    ranks.kill()
    shutil.rmtree(killed / "training" / "iter_0000009", ignore_errors=True)
    # The same step of a run that was never killed.
    shutil.copytree(uninterrupted / "training" / "iter_0000006", handed_over / "training" / "iter_0000006")
    shutil.copy(uninterrupted / METRICS_FILE, handed_over)
    for folder in (killed, handed_over):
        _train(chain, folder, processes=1, tensor_parallel=1, hidden_dropout=0.1)
    assert _curve(killed) == _curve(handed_over)
    assert len(_curve(killed)) == ITERATIONS
    losses, expected = ([row["loss"] for row in read_metrics(at / METRICS_FILE)] for at in (killed, uninterrupted))
    assert losses == pytest.approx(expected, abs=2e-4)


def test_terminated_launcher_lets_the_ranks_save(chain: Chain, tmp_path: Path) -> None:
    spec = _spec(chain, tmp_path, 2, loader_workers=1, save_interval=1000)
    code = f"""
from pathlib import Path
from components.launch.config import LaunchConfig
from components.launch.job import TrainingJob
from components.launch.local import run_local
launch = LaunchConfig(processes_per_node=2, tensor_parallel=2)
run_local(TrainingJob("test", "components.training.worker", [{str(spec)!r}], Path({str(tmp_path / "logs")!r}), launch))
"""
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        _wait_for_rows(tmp_path, 3)
        launcher.send_signal(signal.SIGTERM)
        output, _ = launcher.communicate(timeout=PATIENCE_S)
    finally:
        terminate_tree(launcher.pid, grace_s=0)
    # torchrun hands the signal to the ranks' process groups: the loader's processes must outlive it.
    assert "DataLoader worker" not in output
    (saved,) = checkpoints(tmp_path / "training")
    assert saved.name == f"iter_{_rows(tmp_path):07d}"
    assert problems(saved) == []


def test_stopped_after_the_last_step_finishes_from_its_checkpoint(
    chain: Chain, uninterrupted: Path, tmp_path: Path
) -> None:
    # What a SIGTERM during the last of six steps leaves.
    shutil.copytree(uninterrupted / "training" / "iter_0000006", tmp_path / "training" / "iter_0000006")
    shutil.copy(uninterrupted / METRICS_FILE, tmp_path)
    _train(chain, tmp_path, 1, 1, iterations=6, hidden_dropout=0.1, save_interval=6, keep_best=1)
    assert _curve(tmp_path) == _curve(uninterrupted)[:6]
    summary = read_summary(tmp_path)
    assert (summary["step"], summary["best_step"], summary["best_model"]) == (6, 6, str(tmp_path))
    assert summary["best_validation_loss"] == summary["final_validation_loss"]
    model, checkpoint = read_weights(tmp_path), read_weights(tmp_path / "training" / "iter_0000006")
    assert all(torch.equal(model[name], checkpoint[name]) for name in model)


def test_kept_checkpoints_become_models_of_their_own(chain: Chain, uninterrupted: Path, tmp_path: Path) -> None:
    kept = uninterrupted / "kept" / "step_0000006"
    model, checkpoint = read_weights(kept), read_weights(uninterrupted / "training" / "iter_0000006")
    assert model.keys() == read_weights(uninterrupted).keys()
    assert all(torch.equal(model[name], checkpoint[name]) for name in model)
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    recipe = {**RECIPE, "iterations": 5, "save_interval": 2, "evaluation_interval": 2, "keep_best": 2}
    config = TrainingConfig(recipe=Recipe.model_validate({**recipe, "train_vision": False}))
    output = run_training(context, "pretrain", config, chain.model, chain.dataset)
    assert [path.name for path in (output.folder / "kept").iterdir()] == ["step_0000004"]
    assert not (output.folder / "training").exists()
    facts = output.manifest.facts
    losses = {
        row["step"]: row["validation_loss"]
        for row in read_metrics(output.folder / METRICS_FILE)
        if "validation_loss" in row
    }
    assert facts["best_validation_loss"] == min(losses.values())
    assert losses[facts["best_step"]] == min(losses.values())
    best = Path(facts["best_model"])
    # What every stage and `vlm export` ask of a model folder.
    check_files(best, read_manifest(best))
    with single_process():
        assert ModelSource(output.folder / "kept" / "step_0000004").dtype == torch.float32
    assert input_identity(output.folder / "kept" / "step_0000004").endswith("-step_0000004")
    # Killed before the manifest was there: what was trained is not trained again.
    (output.folder / "manifest.json").unlink()
    again = run_training(context, "pretrain", config, chain.model, chain.dataset)
    assert again.manifest.facts == facts
    assert again.manifest.files == output.manifest.files


def test_speed_and_memory_are_in_every_row_and_in_the_summary(uninterrupted: Path) -> None:
    rows, summary = read_metrics(uninterrupted / METRICS_FILE), read_summary(uninterrupted)
    for row in rows:
        assert 0.5 < row["useful_token_share"] <= 1
        assert 0 <= row["data_wait_share"] < 1
        assert row["tokens_per_s"] > row["samples_per_s"] > 0
        assert row["tflops_per_device"] > 0
        assert row["memory_resident_gib"] > 0.1
        assert "mfu" not in row  # a CPU has no peak in the table
    assert summary["median_tflops_per_device"] == sorted(row["tflops_per_device"] for row in rows)[len(rows) // 2]
    assert summary["peak_memory_resident_gib"] == max(row["memory_resident_gib"] for row in rows)


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
    before, after = read_weights(chain.model), read_weights(folder)
    frozen = [name for name in before if not name.startswith("vision_projection.")]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert frozen
    assert all(torch.equal(before[name].to(dtype), after[name]) for name in frozen)
    assert not any(torch.equal(before[name].to(dtype), after[name]) for name in before if name not in frozen)
    (kept,) = checkpoints(folder / "training")
    state = read_weights(kept)
    moments = [name for name in state if name.startswith("optimizer.exp_avg.")]
    assert moments
    assert all(name.startswith("optimizer.exp_avg.vision_projection.") for name in moments)
    assert any(name.startswith("optimizer.master.") for name in state) == (precision == "bf16")


def test_diverging_loss_stops_with_the_last_good_checkpoint(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training diverged.*Last good checkpoint"):
        _launch(chain, tmp_path, 1, 1, learning_rate=1e30, min_learning_rate=1e30, clip_grad=0, save_interval=1)


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
    spec = _read_spec(_spec(chain, tmp_path, 1, **STEADY))
    two = Layout(tensor_parallel=1, data_parallel=2)
    whole = train_in(two, spec, tmp_path / "whole")
    # The optimizer's state lies on two ranks, and then on one.
    folder = train_in(two, _with_iterations(_sharded(spec), 7), tmp_path / "changed")
    assert checkpoints(folder / "training")[-1].name == "iter_0000006"
    _launch(chain, folder, 1, 1, **STEADY)
    assert "the same global batches, from 2 loader processes per rank" in capfd.readouterr().out
    rows, expected = read_metrics(folder / METRICS_FILE), read_metrics(whole / METRICS_FILE)
    assert [row["consumed_samples"] for row in rows] == [row["consumed_samples"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=2e-4)


def test_other_number_of_data_parallel_ranks_is_refused(chain: Chain, tmp_path: Path) -> None:
    _train(chain, tmp_path, 1, 1, iterations=4, save_interval=2)
    with pytest.raises(StageError, match="data-parallel ranks"):
        _launch(chain, tmp_path, 2, 1, iterations=6, save_interval=2)


def test_describing_held_out_pictures_changes_nothing_else(chain: Chain, uninterrupted: Path, tmp_path: Path) -> None:
    folder = _train(chain, tmp_path, hidden_dropout=0.1, caption_interval=5, caption_samples=6)
    assert _curve(folder) == _curve(uninterrupted)
    expected, found = read_weights(uninterrupted), read_weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    scores = {row["step"]: row[METRIC] for row in read_metrics(folder / METRICS_FILE) if METRIC in row}
    assert list(scores) == [5, 10, ITERATIONS]
    assert all(score >= 0 for score in scores.values())
    for step in scores:
        content = (folder / "zero_shot" / f"step_{step:07d}.html").read_text()
        assert content.count('<img src="data:image/jpeg;base64,') == 6
        assert f"CIDEr {scores[step]:.1f}" in content
    # Where it began is shown too, and is no metric.
    assert [[samples[0].step, len(samples)] for samples in read_texts(folder)] == [[step, 6] for step in (0, *scores)]
