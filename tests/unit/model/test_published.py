"""The published models: parameters, image tokens and operations of every row, against what transformers builds of it."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.language.registry import LANGUAGE_FAMILIES, read_language
from components.model.families.published import published_config
from components.model.families.rules import drop_reason
from components.model.families.vision.registry import VISION_FAMILIES, family_of, read_vision
from components.model.flops import Work, forward_flops
from components.model.parameters import language_parameters, vision_parameters
from tests.support.model_config import CONFIG

LENGTH = 2048
TABLE = resources.files("components.model.families") / "published.yaml"


@dataclass(frozen=True)
class LanguageRow:
    """A published language model.

    Attributes:
        name: On the hub.
        parameters: As published: the elements of its safetensors files, a tied output layer once.
        gflops: Forward pass per token of a text of 2,048 tokens, logits of all of them included, in 10^9.
    """

    name: str
    parameters: int
    gflops: float


@dataclass(frozen=True)
class VisionRow:
    """A published vision tower.

    Attributes:
        name: On the hub.
        parameters: Up to the last layer, without the post-layernorm and what comes after it.
        published_millions: Of the whole image side, as OpenCLIP publishes it (docs/model_profile.csv), in 10^6.
        projected: Width that CLIP's image side projects to at its end; 0 without projection.
        tokens: Image tokens of a picture.
        gflops: Forward pass of a picture, in 10^9.
        published_gflops: Of the whole image side, as OpenCLIP publishes it.
    """

    name: str
    parameters: int
    published_millions: float
    projected: int
    tokens: int
    gflops: float
    published_gflops: float


LANGUAGE = (
    LanguageRow("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552, 14.76),
    LanguageRow("mistralai/Mistral-Nemo-Base-2407", 12_247_782_400, 23.82),
    LanguageRow("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616, 13.75),
    LanguageRow("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, 15.55),
    LanguageRow("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400, 2.61),
    LanguageRow("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824, 6.78),
    LanguageRow("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, 1.08),
    LanguageRow("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, 3.26),
    LanguageRow("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688, 6.47),
    LanguageRow("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, 14.55),
    LanguageRow("Qwen/Qwen3-0.6B", 596_049_920, 1.43),
    LanguageRow("Qwen/Qwen3-1.7B", 1_720_574_976, 3.68),
    LanguageRow("Qwen/Qwen3-4B", 4_022_468_096, 8.65),
    LanguageRow("Qwen/Qwen3-8B", 8_190_735_360, 15.74),
)

# OpenCLIP has no row for SigLIP 2's image sides: they are SigLIP's.
VISION = (
    VisionRow("openai/clip-vit-base-patch16", 85_797_888, 86.19, 512, 196, 35.13, 35.13),
    VisionRow("openai/clip-vit-large-patch14-336", 303_505_408, 304.29, 768, 576, 381.92, 381.92),
    VisionRow("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 630_763_520, 632.08, 1024, 256, 334.59, 334.59),
    VisionRow("google/siglip-base-patch16-224", 85_795_584, 92.88, 0, 196, 34.94, 35.42),
    VisionRow("google/siglip-so400m-patch14-384", 412_984_944, 428.23, 0, 729, 666.45, 670.35),
    VisionRow("google/siglip2-base-patch16-224", 85_795_584, 92.88, 0, 196, 34.94, 35.42),
    VisionRow("google/siglip2-so400m-patch14-384", 412_984_944, 428.23, 0, 729, 666.45, 670.35),
)


def by_name(row: LanguageRow | VisionRow) -> str:
    return row.name


def published(name: str) -> HfConfig:
    config = published_config(name)
    assert config is not None
    return config


def content(name: str) -> dict[str, Any]:
    return dict(published(name).content)


def test_every_published_model_has_a_row_and_every_family_a_published_model() -> None:
    assert {row.name for row in (*LANGUAGE, *VISION)} == yaml.safe_load(TABLE.read_text()).keys()
    assert {content(row.name)["model_type"] for row in LANGUAGE} == LANGUAGE_FAMILIES.keys()
    assert {vision_config(row.name).family for row in VISION} == VISION_FAMILIES.keys()
    assert published_config("someone/else") is None


def vision_config(name: str) -> VisionConfig:
    return read_vision(published(name), -1)


@pytest.fixture(scope="module", params=LANGUAGE, ids=by_name)
def language(request: pytest.FixtureRequest) -> tuple[LanguageRow, Any]:
    """A row and transformers' model of it, without memory."""
    fields = content(request.param.name)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        return request.param, AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def test_language_model(language: tuple[LanguageRow, Any]) -> None:
    row, theirs = language
    ours = read_language(published(row.name), 1)
    assert language_parameters(ours).total == row.parameters == count(theirs)

    model = CONFIG.model_copy(update={"language": ours})
    square = Work(tokens=LENGTH, pairs=LENGTH**2, answers=LENGTH, images=0)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        tokens = torch.zeros(1, LENGTH, dtype=torch.long, device="meta")
        theirs(input_ids=tokens, attention_mask=torch.zeros(1, 1, LENGTH, LENGTH, device="meta"), use_cache=False)
    assert forward_flops(model, square) == counted.get_total_flops()
    causal = Work(tokens=LENGTH, pairs=LENGTH * (LENGTH + 1) // 2, answers=LENGTH, images=0)
    assert round(forward_flops(model, causal) / LENGTH / 1e9, 2) == row.gflops


@pytest.fixture(scope="module", params=VISION, ids=by_name)
def vision(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionRow, Any]:
    """A row and transformers' tower of it, with its pooling head and without memory."""
    fields = dict(content(request.param.name)["vision_config"])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        return request.param, AutoModel.from_config(config, attn_implementation="eager").eval()


def test_vision_tower(vision: tuple[VisionRow, Any]) -> None:
    row, theirs = vision
    ours = vision_config(row.name)
    names = {name: parameter.numel() for name, parameter in theirs.named_parameters()}
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
    drops = family_of(published(row.name)).drops(ours, prefix)
    kept = sum(size for name, size in names.items() if drop_reason(name, drops) is None)
    assert vision_parameters(ours).total == row.parameters == kept
    whole = count(theirs) + ours.hidden_size * row.projected
    assert whole / 1e6 == pytest.approx(row.published_millions, abs=0.005)

    picture = Work(tokens=0, pairs=0, answers=0, images=1)
    image = CONFIG.image.model_copy(update={"size": ours.image_size, "patch": ours.patch_size})
    model = CONFIG.model_copy(update={"vision": ours, "image": image})
    projector = 2 * ours.patches * model.projector.ffn_hidden_size * (ours.hidden_size + model.language.hidden_size)
    flops = forward_flops(model, picture) - projector
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        theirs(pixel_values=torch.zeros(1, 3, ours.image_size, ours.image_size, device="meta"))
    modules = counted.get_flop_counts()
    head = sum(sum(counts.values()) for name, counts in modules.items() if name.endswith(".head"))
    assert flops == counted.get_total_flops() - head
    projection = 2 * ours.hidden_size * row.projected
    assert (counted.get_total_flops() + projection) / 1e9 == pytest.approx(row.published_gflops, abs=0.005)
    assert (ours.patches, round(flops / 1e9, 2)) == (row.tokens, row.gflops)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
