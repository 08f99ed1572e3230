"""Training checkpoints on a real disk: written while the model changes, checked before a resume, never lost."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from components.errors import StageError
from components.model.checkpoint.sharded import stored_tensors
from components.model.distributed import single_process
from components.model.vlm import VisionLanguageModel
from components.training.checkpoint.contents import CheckpointFacts, Counters, read_facts
from components.training.checkpoint.integrity import newest_whole
from components.training.checkpoint.layout import checkpoints, clear_unfinished
from components.training.checkpoint.resume import load_checkpoint
from components.training.checkpoint.retention import Mark, Retention
from components.training.checkpoint.saving import CheckpointSaver
from components.training.config import Recipe
from components.training.divergence import SpikeGuard
from components.training.optimizer import MasterWeightAdamW
from tests.support.failing_volume import FailingVolume
from tests.support.small_disk import small_disk

START = "combine/0123456789abcdef"
RECIPE: dict[str, Any] = {
    "train_language": True,
    "train_vision": False,
    "prompt_format": "plain",
    "iterations": 10,
    "global_batch_size": 2,
    "sequence_length": 8,
    "learning_rate": 1e-2,
    "min_learning_rate": 1e-3,
    "save_interval": 2,
}


class _Model(MegatronModule):
    """Two layers of megatron's kind; the first is frozen."""

    def __init__(self, width: int) -> None:
        super().__init__(TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1))
        self.frozen = torch.nn.Linear(width, width)
        self.trained = torch.nn.Linear(width, width)
        self.frozen.requires_grad_(False)

    def step(self, optimizer: MasterWeightAdamW) -> None:
        self.trained(self.frozen(torch.rand(4, self.frozen.in_features))).square().sum().backward()
        optimizer.step(1e-2)


class Run:
    """A training without data: a model, its optimizer, its saver."""

    def __init__(self, folder: Path, width: int = 64, *, background: bool = True, **retention: int) -> None:
        self.model = _Model(width)
        self.folder = folder
        self.optimizer = MasterWeightAdamW(self.model, Recipe.model_validate(RECIPE))
        self.saver = CheckpointSaver(folder, Retention(**{"newest": 2, **retention}), START, background=background)
        self.counters = Counters()

    def step(self, *, save: bool = True, validation_loss: float | None = None) -> None:
        self.model.step(self.optimizer)
        self.counters.step += 1
        if save:
            typed = cast(VisionLanguageModel, self.model)
            self.saver.save(self.counters, typed, self.optimizer, b"loader", validation_loss)

    def finish(self) -> None:
        self.saver.finish()
        self.saver.close()

    def load(self, checkpoint: Path, start: str = START) -> Counters:
        typed = cast(VisionLanguageModel, self.model)
        return load_checkpoint(checkpoint, typed, self.optimizer, start=start, seed=0)[0].counters

    def values(self) -> list[torch.Tensor]:
        """Everything that a step changes."""
        moments = [tensor for index in range(2) for tensor in self.optimizer._tensors(index).values()]
        values = [*self.model.trained.parameters(), *moments, torch.get_rng_state()]
        return [value.detach().clone() for value in values]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def saved_run(folder: Path, steps: int) -> Run:
    """A training that has saved a checkpoint after each of its steps."""
    run = Run(folder)
    for _ in range(steps):
        run.step()
    run.finish()
    return run


@pytest.fixture(autouse=True)
def _process_group() -> Iterator[None]:
    with single_process():
        yield


@pytest.fixture
def four_megabytes(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "4m") as folder:
        yield folder


@pytest.mark.parametrize("background", [True, False])
def test_a_checkpoint_holds_the_moment_of_its_step_whatever_trains_meanwhile(tmp_path: Path, background: bool) -> None:
    run = Run(tmp_path, background=background)
    run.step(save=False)
    for _ in range(3):  # the second and third use the host memory of the first again
        run.step()
        assert background or checkpoints(tmp_path)[-1].name == f"iter_{run.counters.step:07d}"
        expected = run.values()
        run.step(save=False)
        run.step(save=False)
        run.finish()
        other = Run(tmp_path)
        saved = checkpoints(tmp_path)[-1]
        assert other.load(saved).step == run.counters.step - 2
        assert all(torch.equal(*pair) for pair in zip(other.values(), expected, strict=True))
    names = stored_tensors(saved / "checkpoint")
    assert names
    assert not [name for name in names if "frozen" in name]


def test_a_run_that_started_from_another_model_is_refused(tmp_path: Path) -> None:
    run = saved_run(tmp_path, steps=1)
    with pytest.raises(StageError, match="started from combine/0123456789abcdef, this one starts from combine/other"):
        run.load(checkpoints(tmp_path)[0], start="combine/other")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "checkpoint" / "__0_0.distcp").unlink(), r"__0_0\.distcp is missing"),
        (lambda folder: _cut(folder / "checkpoint" / "__0_0.distcp"), r"__0_0\.distcp has \d+ bytes instead of"),
        (lambda folder: _flip(folder / "checkpoint" / "__0_0.distcp"), r"__0_0\.distcp was altered"),
        (lambda folder: _flip(folder / "loader_dp0.bin"), r"loader_dp0\.bin was altered"),
        (lambda folder: _cut(folder / "files.json"), r"files\.json is no list of files"),
        (lambda folder: (folder / "files.json").unlink(), r"files\.json is missing"),
    ],
)
def test_a_broken_newest_checkpoint_is_set_aside_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, what: str
) -> None:
    run = saved_run(tmp_path, steps=2)
    older, newest = checkpoints(tmp_path)
    damage(newest)
    assert newest_whole(tmp_path, "pretrain") == older
    said = capsys.readouterr().out
    assert re.search(rf"WARNING: pretrain: .*iter_0000002 is broken: .*{what}.*goes on from iter_0000001", said)
    assert run.names() == ["iter_0000001", "iter_0000002.broken"]


def test_no_whole_checkpoint_is_an_error_that_names_each_and_touches_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path, "pretrain") is None
    run = saved_run(tmp_path, steps=2)
    first, second = checkpoints(tmp_path)
    (first / "counters.json").unlink()
    _flip(second / "checkpoint" / ".metadata")
    with pytest.raises(StageError, match=r"iter_0000002: checkpoint/\.metadata was altered.*iter_0000001: counters"):
        newest_whole(tmp_path, "pretrain")
    assert run.names() == ["iter_0000001", "iter_0000002"]


@pytest.mark.parametrize(
    "name", ["files.json", "counters.json", "loader_dp0.bin", "__0_0.distcp", ".metadata", "training"]
)
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_volume_that_fails_for_a_moment_condemns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    run = saved_run(tmp_path / "training", steps=2)
    volume = FailingVolume(monkeypatch, tmp_path, name, OSError(number, os.strerror(number)), times=3)
    assert newest_whole(run.folder, "pretrain") == run.folder / "iter_0000002"
    assert len(volume.waited_s) == 3
    assert run.names() == ["iter_0000001", "iter_0000002"]


@pytest.mark.parametrize(
    "name", ["files.json", "counters.json", "loader_dp0.bin", "__0_0.distcp", ".metadata", "training"]
)
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
def test_a_volume_that_goes_on_failing_stops_the_run_and_takes_no_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    run = saved_run(tmp_path / "training", steps=2)
    with monkeypatch.context() as patch:
        FailingVolume(patch, tmp_path, name, OSError(number, os.strerror(number)))
        with pytest.raises(StageError, match=rf"{name} can't be read: .*{os.strerror(number)}.*nothing was changed"):
            newest_whole(run.folder, "pretrain")
    assert run.names() == ["iter_0000001", "iter_0000002"]
    assert newest_whole(run.folder, "pretrain") == run.folder / "iter_0000002"


@pytest.mark.parametrize("name", ["counters.json", "loader_dp0.bin", "random_dp0_tp0.pt", "__0_0.distcp"])
def test_a_resume_waits_for_the_volume_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = Run(tmp_path)
    run.step()
    expected = run.values()
    run.step()
    run.finish()
    other = Run(tmp_path)
    volume = FailingVolume(monkeypatch, tmp_path, name, OSError(errno.ESTALE, "Stale file handle"), times=2)
    assert other.load(tmp_path / "iter_0000001").step == 1
    assert all(torch.equal(*pair) for pair in zip(other.values(), expected, strict=True))
    assert len(volume.waited_s) == 2


def test_a_proof_condemns_whatever_the_volume_did_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run(tmp_path, steps=2)
    _flip(tmp_path / "iter_0000002" / "checkpoint" / "__0_0.distcp")
    FailingVolume(monkeypatch, tmp_path / "iter_0000002", ".distcp", OSError(errno.EIO, "Input/output error"), times=2)
    assert newest_whole(tmp_path, "pretrain") == tmp_path / "iter_0000001"
    assert run.names() == ["iter_0000001", "iter_0000002.broken"]


def test_a_volume_that_fails_while_superseded_ones_are_dropped_does_not_deny_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    for _ in range(3):
        run.step()
    with monkeypatch.context() as patch:
        FailingVolume(patch, tmp_path / "iter_0000001", "counters.json", OSError(errno.ESTALE, "Stale file handle"))
        with pytest.raises(StageError, match=r"^[^:]*iter_0000001/counters\.json can't be read: .*run again"):
            run.finish()
    assert run.names() == ["iter_0000001", "iter_0000002", "iter_0000003"]
    assert newest_whole(tmp_path, "pretrain") == tmp_path / "iter_0000003"


def test_a_volume_that_does_not_rename_a_superseded_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    for _ in range(3):
        run.step()
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == "iter_0000001":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(
        StageError, match=r"iter_0000001 can't be renamed to iter_0000001\.tmp: .*Read-only file system"
    ):
        run.finish()
    assert run.names() == ["iter_0000001", "iter_0000002", "iter_0000003"]


def test_too_little_space_stops_before_anything_is_touched(four_megabytes: Path) -> None:
    run = Run(four_megabytes / "training", width=256)  # some 0.8 MB a checkpoint
    run.step()
    run.step()
    run.finish()
    (four_megabytes / "other").write_bytes(bytes(2_000_000))
    before = {path: path.stat().st_mtime_ns for path in sorted(run.folder.rglob("*"))}
    with pytest.raises(
        StageError, match=r"Too little space for the checkpoint of step 3.*MB are free.*from .*iter_0000002"
    ):
        run.step()
    assert {path: path.stat().st_mtime_ns for path in sorted(run.folder.rglob("*"))} == before
    (four_megabytes / "other").unlink()
    run.step()
    run.finish()
    assert newest_whole(run.folder, "pretrain") == run.folder / "iter_0000004"


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_older_ones(
    four_megabytes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(four_megabytes / "training", width=256)
    run.step()
    run.finish()
    (four_megabytes / "other").write_bytes(bytes(shutil.disk_usage(four_megabytes).free - 500_000))
    # Another process filled the disk after the check.
    enough = shutil.disk_usage(four_megabytes)._replace(free=1 << 30)
    monkeypatch.setattr("components.training.checkpoint.saving.shutil.disk_usage", lambda _: enough)
    run.step()
    with pytest.raises(StageError, match=r"iter_0000002 could not be written: rank 0: .*No space left.*iter_0000001"):
        run.finish()
    assert run.names() == ["iter_0000001"]
    assert newest_whole(run.folder, "pretrain") == run.folder / "iter_0000001"


def test_what_rules_keep_stays(tmp_path: Path) -> None:
    run = Run(tmp_path, newest=2, every=4, best=1)
    for validation_loss in (3.0, 1.0, 2.0, 5.0, 4.0, 4.5, 4.2, 4.1, 4.3):
        run.step(validation_loss=validation_loss)
    run.finish()
    # The best is 2, every fourth stays, and the newest two.
    assert run.names() == [f"iter_000000{step}" for step in (2, 4, 8, 9)]
    assert read_facts(tmp_path / "iter_0000002").validation_loss == 1.0
    (tmp_path / "iter_0000005.tmp").mkdir()
    clear_unfinished(tmp_path)
    assert run.names() == [f"iter_000000{step}" for step in (2, 4, 8, 9)]


@given(
    losses=st.lists(st.none() | st.floats(0, 10), min_size=1, max_size=30),
    newest=st.integers(1, 4),
    every=st.integers(0, 5),
    best=st.integers(0, 4),
)
def test_removing_step_by_step_keeps_what_the_whole_history_says(
    losses: list[float | None], newest: int, every: int, best: int
) -> None:
    retention = Retention(newest, every, best)
    history = [Mark(step, loss) for step, loss in enumerate(losses, start=1)]
    there: list[Mark] = []
    for mark in history:
        there.append(mark)
        there = [one for one in there if one not in retention.superseded(there)]
        assert there[-1] == mark
    assert retention.for_good(there) == retention.for_good(history)
    assert there[-newest:] == history[-newest:]
    lowest = sorted(mark.validation_loss for mark in history if mark.validation_loss is not None)[:best]
    assert sorted(mark.validation_loss for mark in retention.ranked(there)[:best]) == lowest


def test_facts_survive_the_disk() -> None:
    facts = CheckpointFacts(
        counters=Counters(step=3, fingerprint=2**60), data_parallel=2, tensor_parallel=1, model=START
    )
    assert CheckpointFacts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize(("losses", "stops"), [([9.0] * 3, True), ([9.0, 1.0, 9.0, 9.0], False), ([2.5] * 9, False)])
def test_spikes_stop_a_run_only_when_they_stay(losses: list[float], stops: bool) -> None:
    guard, off = SpikeGuard(3.0, steps=3), SpikeGuard(0.0, steps=3)
    assert not any(guard.diverges(1.0 + 0.01 * step) for step in range(30))
    assert any([guard.diverges(loss) for loss in losses]) == stops
    assert not any(off.diverges(loss) for loss in [1.0] * 30 + losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_every": 3}, "keep_every .3. must be a multiple of save_interval"),
        ({"keep_best": 1}, "keep_best needs the validation loss of every checkpoint"),
        ({"keep_best": 1, "evaluation_interval": 4}, "keep_best needs the validation loss of every checkpoint"),
        ({"divergence_factor": 0.5}, "divergence_factor"),
    ],
)
def test_rules_that_can_not_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({**RECIPE, **settings})
