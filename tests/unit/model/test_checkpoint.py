"""The one writer of checkpoints against megatron-core's own, and reads on a volume that fails."""

import errno
import queue
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch.distributed.checkpoint import FileSystemReader

from components.errors import InputError, StageError
from components.model.checkpoint.sharded import load_model, save_model, sharded_parameters, stored_tensors
from components.model.distributed import destroy, initialize, single_process
from components.model.vlm import VisionLanguageModel, build_model
from tests.support.failing_volume import FailingVolume
from tests.support.model_config import CONFIG
from tests.support.ranks import run_ranks
from tests.support.small_disk import small_disk

STALE = OSError(errno.ESTALE, "Stale file handle")


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    with single_process():
        yield


@pytest.fixture
def model() -> VisionLanguageModel:
    return build_model(CONFIG, init_seed=3, init_std=0.1)


def save_by_megatron_core(model: VisionLanguageModel, folder: Path) -> None:
    """Write with megatron-core's own writer, which asks CUDA even where there is none."""
    folder.mkdir()
    with (
        mock.patch.object(filesystem_async, "_results_queue", queue.Queue()),
        mock.patch.object(torch.cuda, "current_device", return_value=torch.device("cpu")),
        mock.patch.object(torch.cuda, "synchronize"),
    ):
        dist_checkpointing.save(sharded_parameters(model), str(folder))


def assert_equal(found: VisionLanguageModel, model: VisionLanguageModel) -> None:
    for name, parameter in model.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name


def test_megatron_cores_own_checkpoints_are_read_and_it_reads_ours(tmp_path: Path, model: VisionLanguageModel) -> None:
    save_by_megatron_core(model, tmp_path / "theirs")
    save_model(model, tmp_path / "ours")
    again = build_model(CONFIG)
    load_model(again, tmp_path / "theirs")
    assert_equal(again, model)
    again = build_model(CONFIG)
    again.load_state_dict(
        dist_checkpointing.load(sharded_parameters(again), str(tmp_path / "ours"), strict="raise_all"), strict=False
    )
    assert_equal(again, model)


def test_both_describe_the_same_tensors(tmp_path: Path, model: VisionLanguageModel) -> None:
    save_by_megatron_core(model, tmp_path / "theirs")
    save_model(model, tmp_path / "ours")
    theirs, ours = (FileSystemReader(tmp_path / name).read_metadata() for name in ("theirs", "ours"))
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data.keys() == theirs.storage_data.keys()
    for name in ("common.pt", "metadata.json"):
        assert (tmp_path / "ours" / name).is_file() == (tmp_path / "theirs" / name).is_file()


def test_nothing_is_asked_of_cuda(tmp_path: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without a GPU")

    def refused(*_: object) -> None:
        raise AssertionError("CUDA was asked")

    for name in ("current_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, refused)
    save_model(model, tmp_path / "model")
    assert stored_tensors(tmp_path / "model")


@pytest.mark.parametrize("name", ["metadata.json", "common.pt", ".metadata", "__0_0.distcp"])
def test_a_volume_that_fails_for_a_moment_is_waited_for(
    tmp_path: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_model(model, tmp_path / "model")
    volume = FailingVolume(monkeypatch, tmp_path, name, STALE, times=2)
    again = build_model(CONFIG)
    load_model(again, tmp_path / "model")
    assert_equal(again, model)
    assert len(volume.waited_s) == 2


@pytest.mark.parametrize("name", ["metadata.json", "common.pt", ".metadata", "__0_0.distcp"])
def test_a_volume_that_goes_on_failing_condemns_no_checkpoint(
    tmp_path: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_model(model, tmp_path / "model")
    FailingVolume(monkeypatch, tmp_path, name, STALE)
    with pytest.raises(StageError, match=rf"can't be read: .*Stale file handle.*{name}.*run again"):
        load_model(model, tmp_path / "model")


def load_on_a_failing_volume(folder: Path, name: str, failing: int, times: float) -> None:
    """Load at tensor-parallel size 2 while one of the ranks meets errors; say how it ended."""
    parallel = initialize(2, device="cpu")
    model = build_model(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        if parallel.rank == failing:
            FailingVolume(patch, folder / "model", name, STALE, times)
        patch.setattr("components.storage.volume.time.sleep", lambda _: None)
        try:
            load_model(model, folder / "model")
            torch.save(model.language_model.output_layer.weight.detach(), folder / f"{parallel.rank}.pt")
        except StageError as error:
            (folder / f"{parallel.rank}.txt").write_text(str(error))
    destroy()


@pytest.mark.parametrize("name", ["metadata.json", "common.pt", ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("failing", [0, 1])
def test_ranks_wait_together_for_a_volume_that_fails_one_of_them(
    tmp_path: Path, model: VisionLanguageModel, name: str, failing: int
) -> None:
    save_model(model, tmp_path / "model")
    run_ranks(2, load_on_a_failing_volume, tmp_path, name, failing, 2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(torch.cat(parts), model.language_model.output_layer.weight)


def test_ranks_stop_together_when_a_tensor_can_not_be_read(tmp_path: Path, model: VisionLanguageModel) -> None:
    save_model(model, tmp_path / "model")
    run_ranks(2, load_on_a_failing_volume, tmp_path, "__0_0.distcp", 1, float("inf"))
    for rank in range(2):
        assert "can't be read: [Errno 116] Stale file handle" in (tmp_path / f"{rank}.txt").read_text()


@pytest.mark.parametrize("name", ["metadata.json", "common.pt", ".metadata", "__0_0.distcp"])
def test_a_missing_file_is_damage(tmp_path: Path, model: VisionLanguageModel, name: str) -> None:
    save_model(model, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(InputError, match=r"is not a finished|is damaged"):
        load_model(model, tmp_path / "model")


def test_a_full_disk_is_told(tmp_path: Path, model: VisionLanguageModel) -> None:
    with small_disk(tmp_path / "small", "64k") as small:
        with pytest.raises(StageError, match=r"small/model could not be written \(\d+ bytes are free.*No space left"):
            save_model(model, small / "model")
        with pytest.raises(InputError, match="not a finished"):
            load_model(model, small / "model")
