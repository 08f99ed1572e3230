"""Which device a process takes, and how ranks learn what another met."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.device import DEVICE_VARIABLE
from components.errors import ConfigurationError, InputError, StageError
from components.model.distributed import initialize, on_every_rank, on_first_rank


def test_processes_that_were_given_gpus_never_fall_back_to_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no GPU that PyTorch can use: `vlm doctor` says"):
        initialize()
    assert not torch.distributed.is_initialized()


def test_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "tpu")
    with pytest.raises(ConfigurationError, match='device is \'tpu\'; it must be "auto", "cpu" or "cuda"'):
        initialize()


def on_two_ranks(folder: Path, body: Callable[[int], object]) -> list[str]:
    """Run `body` in two real processes and return what it returned or raised, by rank."""

    def run(rank: int) -> None:
        store = torch.distributed.FileStore(str(folder / "store"), 2)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        try:
            said = repr(body(rank))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        (folder / f"{rank}").write_text(said)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    fork = multiprocessing.get_context("fork")  # a spawned process would import torch again
    processes = [fork.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [(folder / f"{rank}").read_text() for rank in range(2)]


def _fails_on(failing: int, rank: int, error: Exception) -> int:
    if rank == failing:
        raise error
    return 10 + rank


def test_all_ranks_get_what_each_has(tmp_path: Path) -> None:
    assert on_two_ranks(tmp_path, lambda rank: on_every_rank(lambda: 10 + rank)) == ["[10, 11]"] * 2


def test_all_ranks_get_what_the_first_has(tmp_path: Path) -> None:
    assert on_two_ranks(tmp_path, lambda rank: on_first_rank(lambda: 10 + rank)) == ["10"] * 2


@pytest.mark.parametrize("failing", [0, 1])
def test_all_ranks_fail_where_one_does(tmp_path: Path, failing: int) -> None:
    error = InputError("the file is cut off")
    said = on_two_ranks(tmp_path, lambda rank: on_every_rank(lambda: _fails_on(failing, rank, error)))
    assert said[failing] == "InputError: the file is cut off"
    assert said[1 - failing] == f"StageError: rank {failing}: the file is cut off"


def test_all_ranks_fail_where_the_first_does(tmp_path: Path) -> None:
    said = on_two_ranks(tmp_path, lambda rank: on_first_rank(lambda: _fails_on(0, rank, StageError("no space"))))
    assert said == ["StageError: no space", "StageError: rank 0: no space"]
