"""Towers within whole models as they are published: OpenAI's and LAION's CLIP, SigLIP; what is not the tower is left out by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, SiglipConfig, SiglipModel

from components.context import RunContext
from components.data.image_settings import PixelSettings
from components.model.config import VisionPart, read_stored
from components.model.families.hf_config import HfConfig
from components.model.families.vision.registry import read_vision
from components.stage.runner import StageOutput
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import CLIP_SETTINGS, redraw
from tests.support.model_samples import TOLERANCE
from tests.support.model_world import finished_weights

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
SHAPE = {name: value for name, value in CLIP_SETTINGS.items() if name != "hidden_act"}


def clip() -> nn.Module:
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=CLIP_SETTINGS, projection_dim=8))


def laion() -> nn.Module:
    vision = {**CLIP_SETTINGS, "hidden_act": "gelu", "projection_dim": 24}
    return CLIPModel(CLIPConfig(text_config={**TEXT, "hidden_act": "gelu"}, vision_config=vision, projection_dim=24))


def siglip() -> nn.Module:
    return SiglipModel(SiglipConfig(text_config=TEXT, vision_config={**SHAPE, "image_size": 28}))


WHOLE = (clip, laion, siglip)


def saved(build: Callable[[], Any], folder: Path) -> Any:
    model = build().eval()
    redraw(model, seed=3)
    model.save_pretrained(folder)
    return model


def converted(folder: Path, feature_layer: int = -1) -> StageOutput:
    finished_weights(folder / "weights")
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    config = WeightConversionConfig(part="vision", feature_layer=feature_layer, tolerance=TOLERANCE)
    return run_weight_conversion(context, config, folder / "weights")


def check(output: StageOutput, model: Any) -> None:
    """Every tensor is accounted for, and the text model's and the contrastive ones are left out by name."""
    facts = output.manifest.facts
    assert facts["max_logit_difference"] <= TOLERANCE
    assert facts["largest_logit"] > 0.5
    report = json.loads((output.folder / "conversion_report.json").read_text())
    used = {name for row in report["mapped"] for name in row["sources"]}
    reasons = {row["name"]: row["reason"] for row in report["dropped"]}
    assert used.isdisjoint(reasons)
    assert model.state_dict().keys() <= used | reasons.keys()
    assert all(name.startswith("vision_model.") for name in used)
    for name, reason in reasons.items():
        if name.startswith("text_model."):
            assert reason == "the text tower is not used"
        elif name.endswith("_projection.weight"):
            assert reason == "CLIP's contrastive projections are not used"
        elif name.startswith("logit_"):
            assert reason == "the contrastive temperature is not used"
        else:
            assert re.match(r"vision_model\.(post_layernorm|head|embeddings\.position_ids|encoder\.layers\.2)", name)


@pytest.mark.parametrize("build", WHOLE)
@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_tower_within_a_whole_model(build: Callable[[], Any], feature_layer: int, tmp_path: Path) -> None:
    model = saved(build, tmp_path / "weights" / "vision")
    output = converted(tmp_path, feature_layer)
    check(output, model)
    stored = read_stored(output.folder, VisionPart)
    family = "siglip" if build is siglip else "clip"
    assert (stored.config.family, stored.config.patches, stored.config.built_layers) == (family, 9, 4 + feature_layer)
    assert output.manifest.facts["picture_settings"] == "the family's own"


@pytest.mark.parametrize("build", WHOLE)
def test_tower_within_an_older_file(build: Callable[[], Any], tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "vision"
    model = saved(build, folder)
    (folder / "model.safetensors").unlink()
    places = {f"{tower}_model.embeddings.position_ids": torch.arange(9)[None] for tower in ("text", "vision")}
    torch.save({**model.state_dict(), **places}, folder / "pytorch_model.bin")
    processor = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 2}))
    output = converted(tmp_path)
    check(output, model)
    expected = PixelSettings(mean=(0.5,) * 3, std=(0.5,) * 3, resample="bilinear")
    assert read_stored(output.folder, VisionPart).pixels == expected
    assert output.manifest.facts["picture_settings"] == "preprocessor_config.json"


def test_whole_model_with_settings_in_the_older_place(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "vision"
    model = saved(laion, folder)
    path = folder / "config.json"
    content = json.loads(path.read_text())
    older = {name: content["vision_config"][name] for name in (*CLIP_SETTINGS, "hidden_act")}
    wrong = {**content["vision_config"], "hidden_act": "quick_gelu", "intermediate_size": 7}
    path.write_text(json.dumps({**content, "vision_config": wrong, "vision_config_dict": older}))
    check(converted(tmp_path), model)


@pytest.mark.parametrize("inner", ["vision_config", "vision_config_dict"])
def test_fields_that_a_whole_model_leaves_out_are_filled_as_transformers_fills_them(inner: str) -> None:
    # laion/CLIP-ViT-L-14-laion2B-s32B-b82K says these
    said = {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    content = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 768, inner: said}
    vision: Any = CLIPConfig.from_dict(content).vision_config
    assert isinstance(vision, CLIPVisionConfig)
    whole = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", **vision.to_dict()}
    found = read_vision(HfConfig(content, "test"), -1)
    assert found == read_vision(HfConfig(whole, "test"), -1)
    assert (found.activation, found.image_size, found.patches) == ("gelu", 224, 256)
