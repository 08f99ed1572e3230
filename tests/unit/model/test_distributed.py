"""Which device a process takes, and how ranks learn what another met."""

from pathlib import Path

import pytest
import torch

from components.device import DEVICE_VARIABLE
from components.errors import ConfigurationError, InputError
from components.model.distributed import destroy, initialize, on_every_rank, on_first_rank
from tests.support.ranks import run_ranks


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


def met(rank_that_fails: int, together: bool, folder: Path) -> None:
    """Say what each of the ranks got or met; every rank has its own number plus ten."""
    parallel = initialize(device="cpu")

    def work() -> int:
        if parallel.rank == rank_that_fails:
            raise InputError("the file is cut off")
        return 10 + parallel.rank

    try:
        said = repr(on_every_rank(work) if together else on_first_rank(work))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (folder / f"{parallel.rank}").write_text(said)
    destroy()


@pytest.mark.parametrize(
    ("rank_that_fails", "together", "first", "second"),
    [
        (-1, True, "[10, 11]", "[10, 11]"),
        (-1, False, "10", "10"),
        (0, True, "InputError: the file is cut off", "StageError: rank 0: the file is cut off"),
        (1, True, "StageError: rank 1: the file is cut off", "InputError: the file is cut off"),
        (0, False, "InputError: the file is cut off", "StageError: rank 0: the file is cut off"),
        (1, False, "10", "10"),
    ],
)
def test_all_ranks_learn_what_one_has_or_met(
    tmp_path: Path, rank_that_fails: int, together: bool, first: str, second: str
) -> None:
    run_ranks(2, met, rank_that_fails, together, tmp_path)
    assert [(tmp_path / f"{rank}").read_text() for rank in range(2)] == [first, second]
