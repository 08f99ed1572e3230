"""Estimates of whole runs: presets fit what they are made for, and hours are those that were measured."""

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from components.errors import ConfigurationError
from components.training.devices import gpu_memory
from pipelines.cli import main
from pipelines.doctor import machine
from pipelines.doctor.preset import HEADROOM
from pipelines.estimate import UTILISATION, estimate_run, model_of, samples_of
from pipelines.preset_files import load_preset, preset_names

Captured = pytest.CaptureFixture[str]

MADE_FOR = {
    "h200-single": ("NVIDIA H200", 1),
    "mistral-clip-7b": ("NVIDIA H100 80GB HBM3", 8),
    "llama3.1-siglip-8b": ("NVIDIA H100 80GB HBM3", 8),
    "qwen3-siglip2-4b": ("NVIDIA H100 80GB HBM3", 1),
    "qwen2.5-siglip-0.5b": ("NVIDIA GeForce RTX 4090", 1),
}


def test_every_preset_but_the_laptops_is_made_for_a_gpu() -> None:
    assert MADE_FOR.keys() == set(preset_names()) - {"laptop"}


@pytest.mark.parametrize("preset", MADE_FOR)
def test_preset_fits_the_gpus_that_it_is_made_for(preset: str) -> None:
    config, (gpu, count) = load_preset(preset), MADE_FOR[preset]
    memory = gpu_memory(gpu)
    assert config.about.gpu == gpu
    assert memory is not None
    for stage in estimate_run(config).stages:
        assert stage.gpus == count
        assert stage.memory.total * HEADROOM < memory, stage.stage


def test_full_fine_tuning_of_four_billions_fits_no_smaller_gpu() -> None:
    memory = gpu_memory("NVIDIA A100-SXM4-40GB")
    assert memory is not None
    stages = estimate_run(load_preset("qwen3-siglip2-4b")).stages
    assert max(stage.memory.total for stage in stages) > memory


def test_hours_agree_with_what_was_measured() -> None:
    """Pretraining of the full 7B model on one H100: 21.8 samples/s (tests/benchmarks/RESULTS.md, 2026-11-27)."""
    overrides = ["about.gpu=NVIDIA H100 80GB HBM3"]
    pretrain = estimate_run(load_preset("h200-single", overrides)).stages[0]
    assert pretrain.hours is not None
    samples_per_s = samples_of(load_preset("h200-single").pretrain.recipe) / (pretrain.hours * 3600)
    assert samples_per_s == pytest.approx(21.8, rel=0.15)


def test_less_memory_with_sharded_states_and_recomputed_layers() -> None:
    def fine_tuning(*overrides: str) -> int:
        return estimate_run(load_preset("llama3.1-siglip-8b", overrides)).stages[1].memory.total

    assert fine_tuning("sft.memory.recompute=full") < fine_tuning() < fine_tuning("sft.memory.shard_optimizer=false")
    assert fine_tuning("sft.launch.tensor_parallel=4") < fine_tuning()


def test_a_model_that_nobody_knows() -> None:
    config = load_preset("mistral-clip-7b", ["weights.language_source=hf://someone/else"])
    with pytest.raises(ConfigurationError, match=r"hf://someone/else is not in the table.*file:///FOLDER"):
        model_of(config)


def test_a_model_in_a_folder_is_read(tmp_path: Path) -> None:
    fields = {"model_type": "clip_vision_model", "hidden_size": 96, "image_size": 28, "patch_size": 14}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    overrides = [f"weights.vision_source={tmp_path.as_uri()}", "combine.image={layout: pad}"]
    vision = model_of(load_preset("mistral-clip-7b", overrides)).vision
    assert (vision.hidden_size, vision.patches) == (96, 4)


def test_presets_are_listed(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["presets"]) == 0
    output = capsys.readouterr().out
    for name in preset_names():
        assert f"{name} {load_preset(name).about.summary}"[:100] in output
    assert "8 x NVIDIA H100 80GB HBM3" in output
    assert f"at {UTILISATION:.0%} of the peak" in output
    assert main(["presets", "--json"]) == 0
    described = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert described["qwen2.5-siglip-0.5b"]["image_tokens"] == 729
    assert described["qwen3-siglip2-4b"]["recipe"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one 24 GB GPU and enough of everything else."""
    memory = gpu_memory("NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    monkeypatch.setattr(machine, "_installed", lambda: iter(()))


@pytest.mark.usefixtures("here")
def test_doctor_says_that_a_preset_fits(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor", "--preset", "qwen2.5-siglip-0.5b", "--workspace", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "GPUs                 1 here, 1 needed" in output
    assert "The qwen2.5-siglip-0.5b preset runs here: vlm run --preset qwen2.5-siglip-0.5b" in output


@pytest.mark.usefixtures("here")
def test_doctor_says_what_a_preset_lacks(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 << 30))
    assert main(["doctor", "--preset", "llama3.1-siglip-8b", "--workspace", str(tmp_path)]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "by pytorchjob, on a cluster" in output
    assert "1 here, 8 needed" in output
    assert "set sft.memory.recompute=full, or a smaller sft.recipe.sequence_length" in output
    assert "background_saving=false needs no copy" in output
    assert "can't run here: GPUs, sft: GPU memory, memory, workspace." in output
