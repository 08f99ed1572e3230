"""Numerical parity of the whole chain (convert, combine, load at a tensor-parallel size) with transformers' LLaVA.

Used by the integration test, which sets bounds, and by the benchmark that prints the figures. `CASES` has a row for every family
of language models and of vision towers; they cover query groups, rotary bases and scaling, tied embeddings, biases, norms of
queries and keys, the activations of tower and projector, both feature layers, and the projector's shapes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from components.combine.config import CombineConfig, ImageChoice, ProjectorSettings
from components.combine.stage import run_combine
from components.context import RunContext
from components.data.image_settings import ImageSettings
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import read_model_config
from components.model.distributed import single_process
from components.model.families.language.registry import language_family
from components.model.families.rules import TensorRule
from components.model.families.vision.registry import vision_family
from components.model.vlm import outlined_model
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import language_model, vision_tower
from tests.support.model_samples import IMAGE_TOKEN, packed, pixel_values, prompts, samples
from tests.support.model_world import chat_template, finished_weights, tokenizer
from tests.support.parity_worker import DECODED_STEPS, compute_logits, decoded_tokens, measure_training
from tests.support.plain_projector import PlainProjector, projector_names
from tests.support.ranks import run_ranks

SIZES = (1, 2, 4)


@dataclass(frozen=True)
class Case:
    """One model shape.

    Attributes:
        name: What is special about it.
        family: Family of the language model.
        language: Settings of the language model that differ from the others'.
        tower: Family of the vision tower.
        vision: Settings of the vision tower that differ.
        feature_layer: Which layer's output the projector takes.
        activation: Activation of the projector.
        projector: Settings of the projector that differ; where there are any, "uniform" draws it, biases too.
        pixel_shuffle: Side of the square of patches that becomes one image token.
    """

    name: str
    family: str
    language: dict[str, Any]
    tower: str = "clip"
    vision: dict[str, Any] = field(default_factory=dict)
    feature_layer: int = -1
    activation: str = "silu"
    projector: dict[str, Any] = field(default_factory=dict)
    pixel_shuffle: int = 1

    @property
    def stock(self) -> bool:
        """Whether transformers' Llava has such a projector."""
        return self.projector.get("depth", 2) == 2 and self.pixel_shuffle == 1


CASES = (
    Case(
        "Mistral, 8 heads, 8 groups, base 1e4",
        "mistral",
        {"num_attention_heads": 8, "num_key_value_heads": 8, "rope_theta": 1e4, "sliding_window": None},
    ),
    Case(
        "Mistral, 8 heads, 4 groups, base 1e6; CLIP, layer -2; GELU projector",
        "mistral",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6, "sliding_window": None},
        feature_layer=-2,
        activation="gelu",
    ),
    Case(
        "Llama, 16 heads, 4 groups, base 5e5, tied; CLIP with GELU",
        "llama",
        {"num_attention_heads": 16, "num_key_value_heads": 4, "rope_theta": 5e5, "tie_word_embeddings": True},
        vision={"hidden_act": "gelu"},
    ),
    Case(
        "Llama 3.2, stretched positions, tied; SigLIP",
        "llama",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 1e4,
            # Small enough that all three kinds of wavelengths are among those of a head.
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        tower="siglip",
    ),
    Case(
        "Qwen 2.5, biases, tied; SigLIP, layer -2; GELU projector with biases",
        "qwen2",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6, "tie_word_embeddings": True},
        tower="siglip",
        feature_layer=-2,
        activation="gelu",
        projector={"bias": True},
    ),
    Case(
        "Qwen 3, normed queries and keys; SigLIP, 28 pixels in patches of 8",
        "qwen3",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6},
        tower="siglip",
        vision={"image_size": 28},
        activation="gelu",
    ),
    Case(
        "Qwen 3; SigLIP; three layers with biases, 56 wide, on 2 x 2 patches",
        "qwen3",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6},
        tower="siglip",
        vision={"image_size": 32},
        activation="gelu",
        projector={"depth": 3, "ffn_hidden_size": 56, "bias": True},
        pixel_shuffle=2,
    ),
    Case(
        "Llama; CLIP; a linear layer on 4 x 4 patches",
        "llama",
        {"num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e4},
        vision={"image_size": 32},
        projector={"depth": 1},
        pixel_shuffle=4,
    ),
)


@dataclass(frozen=True)
class Reference:
    """What transformers computes of one case.

    Attributes:
        model: Model folder that the stages made of the same weights.
        exact: Logits in float32.
        own: Logits in the type that the weights are stored in.
        llava: transformers' model in float32.
        sources: Folder of the weights as they were published: `language/` and `vision/`.
        image: How pictures enter the model.
    """

    model: Path
    exact: Tensor
    own: Tensor
    llava: LlavaForConditionalGeneration
    sources: Path
    image: ImageSettings


def build_reference(folder: Path, case: Case, dtype: torch.dtype) -> Reference:
    """Draw a model, convert and combine it by the real stages, and compute its logits with transformers."""
    weights = folder / "weights"
    language = language_model(case.family, **{"head_dim": 8, **case.language}).to(dtype)
    vision = vision_tower(case.tower, **case.vision).to(dtype)
    language.save_pretrained(weights / "language")
    vision.save_pretrained(weights / "vision")
    tokenizer(weights / "language")
    chat_template(weights / "language")
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
    drawn = {"init": "uniform"} if case.projector else {"init_std": 0.2}
    combined = CombineConfig(
        projector=ProjectorSettings(**{"activation": case.activation, **drawn, **case.projector}),
        image=ImageChoice(pixel_shuffle=case.pixel_shuffle),
        seed=5,
    )
    model = run_combine(context, combined, *parts).folder
    llava = _llava(case, language, vision, model)
    image = read_model_config(model).image
    exact, own = _logits(llava.float(), image), _logits(llava.to(dtype), image)
    return Reference(model, exact, own, llava=llava.float(), sources=weights, image=image)


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


@dataclass(frozen=True)
class Measured:
    """What this project computes of one model.

    Attributes:
        answers: Greedy answers to `ANSWERS` prompts, [prompts, tokens].
        steps: Logits of every decoding step, [steps, samples, vocabulary].
        losses: Loss per token.
        gradients: Checkpoint of the gradients of the sum of the losses.
    """

    answers: Tensor
    steps: Tensor
    losses: Tensor
    gradients: Path

    def read_gradients(self, reference: Reference) -> dict[str, Tensor]:
        """Return the gradient of every parameter, whole."""
        with single_process():
            outline = outlined_model(read_model_config(reference.model))
            read = ParameterReader(outline, self.gradients)
            return {name: read(name) for name, _ in outline.named_parameters()}


@dataclass(frozen=True)
class Expected:
    """What transformers computes of one model, in float32.

    Attributes:
        steps: As `Measured.steps`, by reading everything again at each step.
        losses: Loss per token.
        gradients: Gradient of the sum of the losses, joined as the weights are joined.
    """

    steps: Tensor
    losses: Tensor
    gradients: dict[str, Tensor]


def expected_of(reference: Reference) -> Expected:
    """Let transformers decode, and compute losses and gradients."""
    chosen = samples(image=reference.image)
    continued = [sample.tokens for sample in chosen]
    steps = []
    for step in range(DECODED_STEPS):
        if step:
            new = decoded_tokens(step)
            continued = [torch.cat([tokens, new[place, None]]) for place, tokens in enumerate(continued)]
        with torch.no_grad():
            steps.append(torch.stack([_read(reference, n, tokens)[-1] for n, tokens in enumerate(continued)]))
    logits = torch.cat([_read(reference, number, sample.tokens) for number, sample in enumerate(chosen)])
    losses = torch.nn.functional.cross_entropy(logits, packed(chosen).labels, ignore_index=-100, reduction="none")
    losses.sum().backward()
    return Expected(torch.stack(steps), losses.detach(), _joined_gradients(reference))


def behind_the_best(reference: Reference, answers: Tensor) -> Tensor:
    """Return how far the logit of each token of greedy answers is below the best one that transformers computes there.

    An answer is transformers' own where that is 0 at every token: the first is its first, and so each next one is.

    Args:
        reference: The model.
        answers: Tokens of the answers to `prompts`, [prompts, tokens].
    """
    asked = prompts(len(answers), reference.image)
    alike: dict[tuple[int, int], list[int]] = {}
    for place, prompt in enumerate(asked):
        alike.setdefault((prompt.length, len(prompt.pixels)), []).append(place)
    found = torch.empty(answers.shape)
    for (length, pictures), places in alike.items():
        tokens = torch.stack([torch.cat([asked[place].tokens, answers[place]]) for place in places])
        pixels = torch.cat([pixel_values(asked[place], reference.image) for place in places]) if pictures else None
        with torch.no_grad():
            logits = reference.llava(input_ids=tokens, pixel_values=pixels).logits[:, length - 1 : -1]
        logits[..., IMAGE_TOKEN] = -torch.inf  # no answer holds it, neither here nor in an export
        found[places] = logits.max(-1).values - logits.gather(-1, answers[places][..., None]).squeeze(-1)
    return found


def _read(reference: Reference, number: int, tokens: Tensor) -> Tensor:
    sample = samples(image=reference.image)[number]
    pictures = pixel_values(sample, reference.image) if len(sample.pixels) else None
    logits: Tensor = reference.llava(input_ids=tokens[None], pixel_values=pictures).logits[0]
    return logits


def _joined_gradients(reference: Reference) -> dict[str, Tensor]:
    config = read_model_config(reference.model)
    llava: Any = reference.llava
    language = language_family(config.language.family).rules(config.language)
    vision = vision_family(config.vision.family).rules(config.vision, "")
    joined = {f"language_model.{rule.target}": _joined(rule, llava.model.language_model, llava) for rule in language}
    joined |= {f"vision_model.{rule.target}": _joined(rule, llava.model.vision_tower, llava) for rule in vision}
    projector = llava.model.multi_modal_projector
    for name, own in projector_names(config).items():
        joined[f"vision_projection.{own}"] = projector.get_parameter(name).grad
    return joined


def _joined(rule: TensorRule, module: Any, llava: Any) -> Tensor:
    gradients = []
    for source in rule.sources:
        owner = llava if source.startswith("lm_head") else module
        gradient = owner.get_parameter(source.removeprefix("model.")).grad
        assert gradient is not None, source
        gradients.append(gradient)
    return rule.join(gradients)


def training_at(size: int, models: dict[str, Path], results: Path) -> dict[str, Measured]:
    """Decode, and compute losses and gradients in float32 in one job of `size` processes; see `logits_at`."""
    results.mkdir(parents=True)
    (results / "jobs.json").write_text(json.dumps({name: str(path) for name, path in models.items()}))
    run_ranks(size, measure_training, results)
    measured = torch.load(results / "measured.pt", weights_only=True)
    return {
        name: Measured(**measured[name], gradients=results / f"gradients-{number}")
        for number, name in enumerate(models)
    }


def _llava(case: Case, language: Any, vision: Any, model: Path) -> LlavaForConditionalGeneration:
    """Put the source models together as transformers does; the projector is the one that combine has drawn."""
    architecture = read_model_config(model)
    config = LlavaConfig(
        text_config=language.config,
        vision_config=vision.config,
        image_token_index=IMAGE_TOKEN,
        projector_hidden_act=case.activation,
        vision_feature_layer=case.feature_layer,
        vision_feature_select_strategy="default" if case.tower == "clip" else "full",
        multimodal_projector_bias=case.projector.get("bias", False),
        image_seq_length=architecture.image.tokens,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    llava.model.language_model.load_state_dict(language.model.state_dict())
    llava.lm_head.load_state_dict(language.lm_head.state_dict())
    llava.model.vision_tower.load_state_dict(vision.state_dict())
    if not case.stock:
        llava.model.multi_modal_projector = PlainProjector(architecture)  # type: ignore[assignment]
    with single_process():
        read = ParameterReader(outlined_model(architecture), model / "checkpoint")
    drawn = {name: read(f"vision_projection.{own}") for name, own in projector_names(architecture).items()}
    llava.model.multi_modal_projector.load_state_dict(drawn)
    return llava


def _logits(llava: LlavaForConditionalGeneration, image: ImageSettings) -> Tensor:
    """Return logits of all samples, one after the other, in float32."""
    dtype = llava.lm_head.weight.dtype
    outputs = []
    for sample in samples(image=image):
        pictures = pixel_values(sample, image).to(dtype) if len(sample.pixels) else None
        with torch.no_grad():
            outputs.append(llava(input_ids=sample.tokens[None], pixel_values=pictures).logits[0].float())
    return torch.cat(outputs)
