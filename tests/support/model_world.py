"""A tiny world for model tests: Hugging Face models with random weights, a tokenizer, finished stage folders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPVisionModel, MistralForCausalLM

from components.combine.config import CombineConfig, ProjectorSettings
from components.combine.stage import run_combine
from components.context import RunContext
from components.data.packing import EncodedSample
from components.model.vlm import VisionLanguageModel
from components.stage.manifest import list_files
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import language_model, vision_tower
from tests.support.finished import finish
from tests.support.model_samples import IMAGE_TOKEN, SPECIAL_TOKENS, TOLERANCE, VOCABULARY, pixel_values


def mistral(folder: Path, **changes: Any) -> MistralForCausalLM:
    """Save a Mistral with four query heads over two groups, and a rotary base far from the default."""
    model: MistralForCausalLM = language_model("mistral", **changes)
    model.save_pretrained(folder)
    return model


def clip(folder: Path, **changes: Any) -> CLIPVisionModel:
    """Save a CLIP vision tower of three layers."""
    model: CLIPVisionModel = vision_tower("clip", **changes)
    model.save_pretrained(folder)
    return model


def tokenizer(folder: Path, special_tokens: list[str] | None = None) -> None:
    """Save a small byte-level tokenizer with the control tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS if special_tokens is None else special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator(["a red circle left of a blue square"] * 4, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    trained.save(str(folder / "tokenizer.json"))


def chat_template(folder: Path) -> None:
    """Give the tokenizer of `tokenizer` a chat template, for families that have none for its control tokens."""
    turn = "{{ '[' + m['role'] + ']' + m['content'] + '[/INST]' }}"
    answer = "{{ m['content'] + eos_token }}"
    content = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "image_token": "[IMG]",
        "chat_template": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        f"{answer}{{% else %}}{turn}{{% endif %}}{{% endfor %}}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def finished_weights(folder: Path) -> None:
    """Make a folder look like the weight download's finished output."""
    key = "-".join(sorted(entry.sha256[:4] for entry in list_files(folder).values()))
    finish(folder, "download_weights", key)


@dataclasses.dataclass
class World:
    """Source models and the model folder that the stages made of them."""

    weights: Path
    language: MistralForCausalLM
    vision: CLIPVisionModel
    model: Path
    facts: dict[str, dict[str, Any]]
    context: RunContext


def build_world(folder: Path, **language_settings: Any) -> World:
    """Run weight conversion (both parts, verified) and combine."""
    weights = folder / "weights"
    language, vision = mistral(weights / "language", **language_settings), clip(weights / "vision")
    tokenizer(weights / "language")
    finished_weights(weights)
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    converted = {
        part: run_weight_conversion(
            context,
            WeightConversionConfig(part=part, make_vocab_size_divisible_by=8, tolerance=TOLERANCE),
            weights,
        )
        for part in ("language", "vision")
    }
    combined = run_combine(context, combine_config(), converted["language"].folder, converted["vision"].folder)
    facts = {part: output.manifest.facts for part, output in converted.items()}
    facts["combine"] = combined.manifest.facts
    return World(weights, language, vision, combined.folder, facts, context)


def combine_config(**changes: Any) -> CombineConfig:
    """The settings of combine, with a projector whose output matters."""
    settings = {"projector": ProjectorSettings(ffn_hidden_size=40, init_std=0.2), "seed": 5}
    return CombineConfig(**{**settings, **changes})


def reference_logits(world: World, projector: dict[str, Tensor], sample: EncodedSample) -> Tensor:
    """What transformers' models give for one sample, put together as LLaVA does; with gradients."""
    return world.language(inputs_embeds=reference_embeddings(world, projector, sample)[None]).logits[0]


def reference_embeddings(world: World, projector: dict[str, Tensor], sample: EncodedSample) -> Tensor:
    """What transformers' language model reads of one sample, [L, hidden]."""
    embedded = world.language.get_input_embeddings()(sample.tokens)
    if len(sample.pixels):
        states = world.vision(pixel_values(sample), output_hidden_states=True).hidden_states
        features = states[-1][:, 1:].reshape(-1, states[-1].shape[-1])
        hidden = nn.functional.silu(features @ projector["encoder.linear_fc1.weight"].T)
        embedded = embedded.index_copy(
            0, (sample.tokens == IMAGE_TOKEN).nonzero().flatten(), hidden @ projector["encoder.linear_fc2.weight"].T
        )
    return embedded


def projector_weights(model: VisionLanguageModel) -> dict[str, Tensor]:
    """Copies of the projector's weights (tensor-parallel size 1), ready for gradients."""
    return {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in model.vision_projection.named_parameters()
    }
