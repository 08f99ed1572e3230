"""What a step is counted to be, and the rates that follow."""

import time
import zlib
from collections.abc import Iterator

import pytest
import torch

from components.data.packing import pack
from components.model.distributed import single_process
from components.model.flops import Work, backward_flops, forward_flops
from components.training.devices import bf16_peak
from components.training.throughput import StepWork, Throughput, step_work
from tests.support.model_config import CONFIG
from tests.support.model_samples import samples


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    with single_process():
        yield


def test_step_is_counted_sample_by_sample() -> None:
    chosen = samples()
    batches = pack(chosen, max(sample.length for sample in chosen))
    work = step_work(batches, {"language"}, torch.device("cpu"))
    expected = Work(
        tokens=sum(sample.length for sample in chosen),
        pairs=sum(
            1 for sample in chosen for row in range(sample.length) for column in range(sample.length) if column <= row
        ),
        answers=sum(int((sample.labels != -100).sum()) for sample in chosen),
        images=sum(len(sample.pixels) for sample in chosen),
    )
    assert (work.samples, work.forward, work.backward) == (len(chosen), expected, expected)
    assert work.keys_checksum == sum(zlib.crc32(sample.key.encode()) for sample in chosen)
    longest = [max(batch.cu_seqlens.diff().tolist()) for batch in batches]
    assert work.slots == sum(len(batch.keys) * length for batch, length in zip(batches, longest, strict=True))


def test_texts_alone_have_no_backward_pass_when_the_projector_trains_alone() -> None:
    chosen = samples()
    with_picture = [sample for sample in chosen if len(sample.pixels)]
    apart = [batch for sample in chosen for batch in pack([sample], sample.length)]
    work = step_work(apart, {"projection"}, torch.device("cpu"))
    assert work.forward.tokens == sum(sample.length for sample in chosen)
    assert work.backward.tokens == sum(sample.length for sample in with_picture) < work.forward.tokens


def test_rates_are_of_all_devices_and_utilisation_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    asked = Work(tokens=600, pairs=20_000, answers=100, images=8)
    flops = forward_flops(CONFIG, asked) + backward_flops(CONFIG, asked, {"projection"})
    throughput = Throughput(CONFIG, {"projection"}, devices=4, peak=flops)
    for _ in range(2):
        throughput.add(StepWork(samples=8, slots=800, keys_checksum=0, forward=asked, backward=asked), data_wait_s=0.5)
    now[0] += 10.0
    assert throughput.rates() == {
        "samples_per_s": pytest.approx(1.6),
        "tokens_per_s": pytest.approx(120),
        "data_wait_share": pytest.approx(0.1),
        "useful_token_share": pytest.approx(0.75),
        "tflops_per_device": pytest.approx(2 * flops / 10 / 4 / 1e12),
        "mfu": pytest.approx(0.05),
    }
    throughput.restart()
    now[0] += 1.0
    assert throughput.rates()["samples_per_s"] == 0


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.4),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 2080", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_peak_by_the_name_that_cuda_reports(name: str, tera: float | None) -> None:
    assert bf16_peak(name) == (None if tera is None else pytest.approx(tera * 1e12))
