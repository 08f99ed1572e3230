"""Numerical parity of the whole chain (convert, combine, load at a tensor-parallel size) with transformers' LLaVA.

Used by the integration test, which sets bounds, and by the benchmark that prints the figures. `CASES` cover query groups, rotary
bases, tied embeddings, both activations of CLIP and of the projector, and both feature layers.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from components.combine.config import CombineConfig, ProjectorSettings
from components.combine.stage import run_combine
from components.context import RunContext
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.distributed import single_process
from components.model.vlm import build_model
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.stage import run_weight_conversion
from tests.support.model_samples import IMAGE, IMAGE_TOKEN, VOCABULARY, pixel_values, samples
from tests.support.model_world import CLIP_SETTINGS, finished_weights, redraw, tokenizer
from tests.support.parity_worker import compute_logits
from tests.support.ranks import run_ranks

SIZES = (1, 2, 4)


@dataclass(frozen=True)
class Case:
    """One model shape.

    Attributes:
        name: What is special about it.
        language: Settings of the language model that differ from the others'.
        vision: Settings of the vision tower that differ.
        feature_layer: Which layer's output the projector takes.
        activation: Activation of the projector.
        family: "mistral" or "llama".
    """

    name: str
    language: dict[str, Any]
    vision: dict[str, Any] = field(default_factory=dict)
    feature_layer: int = -1
    activation: str = "silu"
    family: str = "mistral"


CASES = (
    Case("8 heads, 8 groups, base 1e4", {"num_attention_heads": 8, "num_key_value_heads": 8, "rope_theta": 1e4}),
    Case(
        "8 heads, 4 groups, base 1e6, layer -2, GELU projector",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6},
        feature_layer=-2,
        activation="gelu",
    ),
    Case(
        "16 heads, 4 groups, base 5e5, tied Llama, CLIP with GELU",
        {"num_attention_heads": 16, "num_key_value_heads": 4, "rope_theta": 5e5, "tie_word_embeddings": True},
        {"hidden_act": "gelu"},
        family="llama",
    ),
)


@dataclass(frozen=True)
class Reference:
    """What transformers computes of one case.

    Attributes:
        model: Model folder that the stages made of the same weights.
        exact: Logits in float32.
        own: Logits in the type that the weights are stored in.
    """

    model: Path
    exact: Tensor
    own: Tensor


def build_reference(folder: Path, case: Case, dtype: torch.dtype) -> Reference:
    """Draw a model, convert and combine it by the real stages, and compute its logits with transformers."""
    weights = folder / "weights"
    language, vision = _language(case).to(dtype), _vision(case).to(dtype)
    language.save_pretrained(weights / "language")
    vision.save_pretrained(weights / "vision")
    tokenizer(weights / "language")
    finished_weights(weights)
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    parts = [
        run_weight_conversion(
            context,
            WeightConversionConfig(
                part=part,  # type: ignore[arg-type]
                make_vocab_size_divisible_by=8,
                feature_layer=case.feature_layer if part == "vision" else -1,
                verify=False,
            ),
            weights,
        ).folder
        for part in ("language", "vision")
    ]
    projector = ProjectorSettings(
        ffn_hidden_size=language.config.hidden_size,
        activation=case.activation,  # type: ignore[arg-type]
        init_std=0.2,
    )
    model = run_combine(context, CombineConfig(projector=projector, image=IMAGE, seed=5), *parts).folder
    llava = _llava(case, language, vision, model)
    return Reference(model, exact=_logits(llava.float()), own=_logits(llava.to(dtype)))


def logits_at(size: int, models: dict[str, Path], dtypes: dict[str, str], results: Path) -> dict[str, Tensor]:
    """Compute logits of model folders in one job of `size` processes.

    Args:
        size: Tensor-parallel size.
        models: Name to model folder.
        dtypes: Name to type to compute in, a key of `DTYPES`.
        results: A folder for what the processes write.

    Returns:
        Name to logits, and "wrong cut", see parity_worker.py.
    """
    results.mkdir(parents=True)
    jobs = {name: [str(path), dtypes[name]] for name, path in models.items()}
    (results / "jobs.json").write_text(json.dumps(jobs))
    run_ranks(size, compute_logits, results)
    loaded: dict[str, Tensor] = torch.load(results / "logits.pt", weights_only=True)
    return loaded


def _language(case: Case) -> Any:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        **case.language,
    }
    base = settings.pop("rope_theta")
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": base}
    if case.family == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    else:
        model = MistralForCausalLM(MistralConfig(**settings, sliding_window=None))
    redraw(model, seed=1)
    return model.eval()


def _vision(case: Case) -> CLIPVisionModel:
    model = CLIPVisionModel(CLIPVisionConfig(**{**CLIP_SETTINGS, **case.vision}))
    redraw(model, seed=2)
    return model.eval()


def _llava(case: Case, language: Any, vision: CLIPVisionModel, model: Path) -> LlavaForConditionalGeneration:
    """Put the source models together as transformers does; the projector is the one that combine has drawn."""
    config = LlavaConfig(
        text_config=language.config,
        vision_config=vision.config,
        image_token_index=IMAGE_TOKEN,
        projector_hidden_act=case.activation,
        vision_feature_layer=case.feature_layer,
        vision_feature_select_strategy="default",
        multimodal_projector_bias=False,
        image_seq_length=IMAGE.tokens,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    llava.model.language_model.load_state_dict(language.model.state_dict())
    llava.lm_head.load_state_dict(language.lm_head.state_dict())
    llava.model.vision_tower.load_state_dict(vision.state_dict())
    with single_process():
        combined = build_model(read_model_config(model))
        load_model(combined, model / "checkpoint")
        for number in (1, 2):
            weight = combined.vision_projection.get_parameter(f"encoder.linear_fc{number}.weight").detach()
            llava.model.multi_modal_projector.get_submodule(f"linear_{number}").load_state_dict({"weight": weight})
    return llava


def _logits(llava: LlavaForConditionalGeneration) -> Tensor:
    """Return logits of all samples, one after the other, in float32."""
    dtype = llava.lm_head.weight.dtype
    outputs = []
    for sample in samples():
        pictures = pixel_values(sample).to(dtype) if len(sample.pixels) else None
        with torch.no_grad():
            outputs.append(llava(input_ids=sample.tokens[None], pixel_values=pictures).logits[0].float())
    return torch.cat(outputs)
