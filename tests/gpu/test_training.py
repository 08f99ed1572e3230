"""Training on a GPU by torchrun and NCCL: the CPU's losses, and a killed run that equals one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from components.device import DEVICE_VARIABLE
from components.launch.local import terminate_tree
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from tests.support.layouts import read_weights
from tests.support.small_chain import Prepared
from tests.support.small_training import ITERATIONS, write_spec
from tests.support.waiting import wait_for

_TIMES = ("_s", "per_s", "share", "tflops", "mfu", "memory", "time")


def _start(chain: Prepared, folder: Path, device: str, **recipe: object) -> subprocess.Popen[bytes]:
    path = write_spec(chain.model, chain.dataset, folder, 1, **recipe)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += ["--module", "components.training.worker", str(path)]
    environment = {**os.environ, DEVICE_VARIABLE: device, "PYTHONWARNINGS": "ignore"}
    with open(folder / "torchrun.log", "ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _train(chain: Prepared, folder: Path, device: str, **recipe: object) -> Path:
    process = _start(chain, folder, device, **recipe)
    try:
        assert process.wait(timeout=300) == 0, (folder / "torchrun.log").read_text()[-4000:]
    finally:
        terminate_tree(process.pid, grace_s=0)
    return folder


def _curve(folder: Path) -> list[dict[str, float]]:
    """Return all rows without times."""
    return [
        {name: value for name, value in row.items() if not any(part in name for part in _TIMES)}
        for row in read_metrics(folder / METRICS_FILE)
    ]


@pytest.fixture(scope="module")
def exact(chain: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The metrics of a training in float32."""
    return read_metrics(_train(chain, tmp_path_factory.mktemp("exact"), "cuda") / METRICS_FILE)


def test_float32_losses_equal_the_cpus(chain: Prepared, exact: list[dict[str, float]], tmp_path: Path) -> None:
    found, expected = exact, read_metrics(_train(chain, tmp_path, "cpu") / METRICS_FILE)
    assert [row["samples_fingerprint"] for row in found] == [row["samples_fingerprint"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=2e-3)


def test_bf16_learns_like_float32(chain: Prepared, exact: list[dict[str, float]], tmp_path: Path) -> None:
    rounded = read_metrics(_train(chain, tmp_path, "cuda", precision="bf16") / METRICS_FILE)
    assert [row["loss"] for row in rounded] == pytest.approx([row["loss"] for row in exact], rel=0.02)


def test_killed_and_gone_on_equals_uninterrupted_bit_for_bit(chain: Prepared, tmp_path: Path) -> None:
    settings = {"precision": "bf16", "hidden_dropout": 0.1, "attention_dropout": 0.1}
    expected = _train(chain, tmp_path / "uninterrupted", "cuda", **settings)
    killed = tmp_path / "killed"
    process = _start(chain, killed, "cuda", **settings)

    def five_steps() -> bool:
        assert process.poll() is None, (killed / "torchrun.log").read_text()[-4000:]
        return (killed / METRICS_FILE).exists() and len(read_metrics(killed / METRICS_FILE)) >= 5

    wait_for(five_steps)
    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        victim.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_metrics(killed / METRICS_FILE)) < ITERATIONS
    _train(chain, killed, "cuda", **settings)
    assert _curve(killed) == _curve(expected)
    before, after = read_weights(expected), read_weights(killed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
