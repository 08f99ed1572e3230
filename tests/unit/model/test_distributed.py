"""Which device a process takes."""

import pytest
import torch

from components.errors import ConfigurationError
from components.model.device import DEVICE_VARIABLE
from components.model.distributed import initialize


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
