"""How fast training is: samples, tokens and floating-point operations per second, and how many of them are of use."""

import time
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from megatron.core import parallel_state

from components.data.packing import IGNORED_LABEL, PackedBatch
from components.model.config import ModelConfig, Part
from components.model.flops import Work, backward_flops, forward_flops

RATES = ("samples_per_s", "tokens_per_s", "data_wait_share", "useful_token_share", "tflops_per_device", "mfu")
"""Names of the metrics."""


@dataclass(frozen=True)
class StepWork:
    """What one global batch asks of the model, over all data-parallel ranks.

    Attributes:
        samples: Samples.
        slots: Places of the attention's grid, one row per sample, as long as the longest of its sequence. A kernel for
            sequences of variable length computes less, never more.
        keys_checksum: Sum of the CRC-32 of the samples' keys, whatever rank has them.
        forward: The forward pass.
        backward: The batches that have a gradient: texts alone do not touch a projector that trains alone.
    """

    samples: int
    slots: int
    keys_checksum: int
    forward: Work
    backward: Work


def step_work(batches: Sequence[PackedBatch], trained: Collection[Part], device: torch.device) -> StepWork:
    """Count the micro-batches of all data-parallel ranks, with one message and one wait for the device.

    Args:
        batches: This rank's micro-batches.
        trained: The parts that train.
        device: Where the batches are.
    """
    none = torch.zeros(4, dtype=torch.int64, device=device)
    forward = sum((_work(batch, device) for batch in batches), none)
    backward = sum((_work(batch, device) for batch in batches if "language" in trained or len(batch.pixels)), none)
    own = torch.tensor(
        [
            sum(len(batch.keys) for batch in batches),
            sum(len(batch.keys) * batch.max_seqlen for batch in batches),
            sum(zlib.crc32(key.encode()) for batch in batches for key in batch.keys),
        ],
        device=device,
    )
    counts = torch.cat([own, forward, backward])
    if parallel_state.get_data_parallel_world_size() > 1:
        torch.distributed.all_reduce(counts, group=parallel_state.get_data_parallel_group())
    numbers: list[int] = counts.tolist()
    return StepWork(numbers[0], numbers[1], numbers[2], Work(*numbers[3:7]), Work(*numbers[7:11]))


def _work(batch: PackedBatch, device: torch.device) -> torch.Tensor:
    lengths = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).to(torch.int64)
    pairs = (lengths * (lengths + 1)).sum() // 2
    answers = (batch.labels != IGNORED_LABEL).sum()
    known = torch.tensor([batch.tokens.numel(), len(batch.pixels)], device=device)
    return torch.stack([known[0], pairs, answers, known[1]])


class Throughput:
    """Rates of the steps since the last `restart`.

    Args:
        config: The architecture.
        trained: The parts that train.
        devices: Processes that share the work.
        peak: Operations per second that one of them can do at most; None if it is not known.
    """

    def __init__(self, config: ModelConfig, trained: Collection[Part], devices: int, peak: float | None) -> None:
        self._config, self._trained = config, trained
        self._devices, self._peak = devices, peak
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._samples = self._tokens = self._slots = self._flops = 0
        self._data_wait_s = self._save_stall_s = 0.0
        self._start = time.perf_counter()

    def add(self, work: StepWork, data_wait_s: float) -> None:
        """Count a finished step.

        Args:
            work: What it did.
            data_wait_s: Seconds that this process waited for data.
        """
        self._samples += work.samples
        self._tokens += work.forward.tokens
        self._slots += work.slots
        self._flops += forward_flops(self._config, work.forward)
        self._flops += backward_flops(self._config, work.backward, self._trained)
        self._data_wait_s += data_wait_s

    def add_save(self, stall_s: float) -> None:
        """Count the seconds that a step waited for a checkpoint."""
        self._save_stall_s += stall_s

    def rates(self) -> dict[str, float]:
        """Return the metrics of the steps so far; `mfu` (model FLOP/s over the peak, from 0 to 1) only with a peak."""
        elapsed = time.perf_counter() - self._start
        per_device = self._flops / elapsed / self._devices
        rates = {
            "samples_per_s": self._samples / elapsed,
            "tokens_per_s": self._tokens / elapsed,
            "data_wait_share": self._data_wait_s / elapsed,
            "useful_token_share": self._tokens / max(self._slots, 1),
            "tflops_per_device": per_device / 1e12,
        }
        if self._save_stall_s:
            rates["save_stall_s"] = self._save_stall_s
        if self._peak is not None:
            rates["mfu"] = per_device / self._peak
        return rates
