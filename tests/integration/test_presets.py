"""Every shipped preset, at small width: its families, layers, projector and recipes, through the real stages for two steps each."""

import json
import math
from pathlib import Path

import pytest
from transformers import LlavaForConditionalGeneration

from components.context import RunContext
from components.energon_split.stage import run_energon_split
from components.export.stage import run_export
from components.model.config import read_model_config
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.spec import TrainingSpec
from components.training.trainer import train
from components.wds_conversion.stage import run_wds_conversion
from pipelines.config import TRAINING_STAGES, RunConfig
from pipelines.estimate import model_of
from pipelines.preset_files import load_preset, preset_names
from tests.support.finished import finish
from tests.support.small_chain import prepare

STEPS = 2
PRESETS = [name for name in preset_names() if name != "laptop"]
"""The laptop preset is run whole by tests/e2e/test_laptop_run.py."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: what they have in common is made once."""
    return tmp_path_factory.mktemp("presets")


def narrow(preset: str) -> RunConfig:
    """The preset with small random weights of its families, and drawn data; as it is in everything else that fits one CPU."""
    model = model_of(load_preset(preset))
    side = 2 * model.vision.patch_size + model.vision.image_size % model.vision.patch_size
    overrides = [
        "cluster.gpus=0",
        "data.source=scenes://",
        "data.scenes={pictures: 40, held_out_pictures: 8, side: 32}",
        "data.seed=7",
        "weights.language_source=random://",
        "weights.vision_source=random://",
        "weights.vocabulary=300",
        f"weights.language.family={model.language.family}",
        f"weights.language.tie_word_embeddings={str(model.language.tied_embeddings).lower()}",
        "weights.language.hidden_size=32",
        "weights.language.intermediate_size=64",
        "weights.language.num_hidden_layers=2",
        "weights.language.num_attention_heads=4",
        "weights.language.num_key_value_heads=2",
        "weights.language.head_dim=8",
        f"weights.vision.family={model.vision.family}",
        f"weights.vision.image_size={side}",
        f"weights.vision.patch_size={model.vision.patch_size}",
        "weights.vision.hidden_size=32",
        "weights.vision.intermediate_size=64",
        "weights.vision.num_hidden_layers=3",
        f"combine.image.size={side}",
    ]
    for stage in TRAINING_STAGES:
        overrides += [
            f"{stage}.launch={{backend: local}}",
            f"{stage}.memory.shard_optimizer=false",
            f"{stage}.recipe.iterations={STEPS}",
            f"{stage}.recipe.global_batch_size=4",
            f"{stage}.recipe.evaluation_interval=0",
            f"{stage}.recipe.caption_interval=0",
            f"{stage}.recipe.save_interval=1",
            f"{stage}.recipe.log_interval=1",
            f"{stage}.recipe.loader_workers=0",
            f"{stage}.recipe.shuffle_buffer=10",
        ]
    return load_preset(preset, overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_of_both_trainings(preset: str, workspace: Path) -> None:
    config, published = narrow(preset), model_of(load_preset(preset))
    context = RunContext(run_id="t", run_name="t", workspace=workspace)
    prepared = prepare(config, context)
    shards = run_wds_conversion(context, config.wds_conversion.sft, prepared.raw).folder
    datasets = {
        "pretrain": prepared.dataset,
        "sft": run_energon_split(context, config.energon_split.sft, shards).folder,
    }
    built = read_model_config(prepared.model)
    assert (built.language.family, built.vision.family) == (published.language.family, published.vision.family)
    assert built.language.tied_embeddings == published.language.tied_embeddings
    assert built.projector.model_dump(exclude={"ffn_hidden_size"}) == published.projector.model_dump(
        exclude={"ffn_hidden_size"}
    )
    model = prepared.model
    for stage in TRAINING_STAGES:
        training = getattr(config, stage)
        folder = workspace / f"{preset}-{stage}"
        folder.mkdir()
        spec = TrainingSpec(
            stage=stage,
            recipe=training.recipe,
            memory=training.memory,
            tensor_parallel=1,
            model_folder=model,
            dataset_folder=datasets[stage],
            output_folder=folder,
        )
        assert train(spec)
        rows = read_metrics(folder / METRICS_FILE)
        assert [row["step"] for row in rows] == [1, 2]
        assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in rows)
        finish(folder, stage, preset)
        model = folder
    exported = run_export(context, config.export, model).folder
    stock = json.loads((exported / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    assert stock == (not config.export.custom_code)
    if stock:
        loaded = LlavaForConditionalGeneration.from_pretrained(exported)
        assert loaded.config.image_seq_length == built.image.tokens


def test_presets_of_square_projectors_export_stock_models() -> None:
    stock = {name for name in preset_names() if not load_preset(name).export.custom_code}
    assert stock == {"laptop", "qwen2.5-siglip-0.5b", "qwen3-siglip2-4b", "llama3.1-siglip-8b"}
