"""Our training step against transformers' `LlavaForConditionalGeneration`, trained the plain way.

    python -m tests.benchmarks.against_transformers [--shape auto|small|7b] [--recipe NAME] [--steps 8] [--batch 8]
                                                    [--layers N] [--recompute]

Both train the same weights on the same samples, on the same device with the same threads: transformers on a padded batch
with its SDPA attention and torch's fused AdamW, ours on a packed sequence with the engine's own model, counts and optimizer.
What is frozen is frozen in both; no dropout. First both compute the losses of all batches from the same start: the comparison
is only made if they agree. Then every step (forward, backward, update) is timed, and the median counts.

On a CPU the model is scaled down (hidden 512, eight layers, 144 image tokens, float32), with the proportions of the full one;
on a GPU it is the full one (Mistral 7B, CLIP ViT-L/14@336, bf16). There ours keeps fp32 master weights and moments, and
transformers updates bf16 weights in place, the plain way: less memory and less work than ours. SFT of the full model at
32 layers needs about 135 GB; --layers makes it fit smaller devices. With --recompute both recompute their layers in SFT.

The ceiling is what a large matrix product reaches on this device; the share of it is that of useful operations (see
components/model/flops.py) in the measured step.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import LlavaForConditionalGeneration

from components.data.image import normalise
from components.data.image_settings import ImageSettings
from components.data.packing import EncodedSample, PackedBatch, pack
from components.export.architecture import model_settings
from components.export.tensors import plan_tensors
from components.model.config import ModelConfig, Part, ProjectorConfig
from components.model.distributed import destroy, initialize
from components.model.flops import backward_flops, forward_flops
from components.model.vlm import VisionLanguageModel, build_model
from components.training.config import Recipe
from components.training.optimizer import MasterWeightAdamW
from components.training.throughput import StepWork, step_work
from tests.support.model_config import CLIP_L_336, IMAGE_336, MISTRAL_7B, changed

RECIPES: dict[str, set[Part]] = {"pretraining": {"projection"}, "SFT": {"projection", "language"}}
LEARNING_RATE = 1e-5
_WARM_UP_STEPS = 2
_FULL_IMAGE_TOKENS = 576


class Tokens(NamedTuple):
    """What transformers wants to know of the tokenizer."""

    bos: int = 1
    eos: int = 2
    pad: int = 0


@dataclass(frozen=True)
class Measured:
    """One side of the comparison.

    Attributes:
        losses: Mean loss of every batch, before any update.
        step_s: Median duration of a step.
    """

    losses: list[float]
    step_s: float


def main() -> None:
    """Compare both recipes and print a Markdown table."""
    arguments = _arguments()
    device = initialize(1).device
    full = arguments.shape == "7b" or (arguments.shape == "auto" and device.type == "cuda")
    dtype = torch.bfloat16 if full else torch.float32
    config = full_config(arguments.layers or 32) if full else _small(arguments.layers or 8)
    ceiling = _ceiling(device, dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(
        f"{'full' if full else 'scaled-down'} model, {config.language.num_layers} layers, {dtype}, {name}, "
        f"batches of {arguments.batch}; a large matrix product reaches {ceiling / 1e12:.3g} TFLOP/s\n"
    )
    print(
        "| recipe | transformers, samples/s | ours, samples/s | ratio | useful tokens in the padded batch | "
        "transformers, share of ceiling | ours, share of ceiling | largest loss difference |\n" + "|---" * 8 + "|"
    )
    for recipe in arguments.recipe:
        trained = RECIPES[recipe]
        batches = [samples(config, recipe, arguments.batch, seed) for seed in range(_WARM_UP_STEPS + arguments.steps)]
        ours = build_model(
            config,
            dtype=dtype,
            device=device,
            layers="auto",
            recompute="full" if arguments.recompute and recipe == "SFT" else "none",
            init_seed=1,
            init_std=0.02,
        )
        weights = _exported(config, ours)
        own = _measure_ours(config, ours, trained, batches, device)
        works = [step_work([packed(batch).to(device)], trained, device) for batch in batches[_WARM_UP_STEPS:]]
        del ours
        _free()
        theirs = _measure_theirs(
            config, weights, trained, batches, device, dtype, arguments.recompute and recipe == "SFT"
        )
        del weights
        _free()
        difference = max(abs(a - b) for a, b in zip(own.losses, theirs.losses, strict=True))
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
        assert difference < tolerance, f"{recipe}: the losses differ by {difference}; nothing is compared"
        flops = statistics.mean(_flops(config, work, trained) for work in works)
        useful = sum(work.forward.tokens for work in works) / sum(
            len(batch) * max(sample.length for sample in batch) for batch in batches[_WARM_UP_STEPS:]
        )
        print(
            f"| {recipe} | {arguments.batch / theirs.step_s:.3g} | {arguments.batch / own.step_s:.3g} | "
            f"{theirs.step_s / own.step_s:.2f} | {useful:.0%} | {flops / theirs.step_s / ceiling:.0%} | "
            f"{flops / own.step_s / ceiling:.0%} | {difference:.1e} |",
            flush=True,
        )
    destroy()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["auto", "small", "7b"], default="auto")
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=0, help="language layers; 0 for the shape's own")
    parser.add_argument("--recompute", action="store_true")
    return parser.parse_args()


def _measure_ours(
    config: ModelConfig,
    model: VisionLanguageModel,
    trained: set[Part],
    batches: list[list[EncodedSample]],
    device: torch.device,
) -> Measured:
    model.freeze({"language", "vision", "projection"} - trained)
    model.train()
    optimizer = MasterWeightAdamW(model, _recipe(trained))

    def loss(samples: list[EncodedSample]) -> torch.Tensor:
        batch = packed(samples).to(device)
        answers = step_work([batch], trained, device).forward.answers
        pixels = normalise(batch.pixels, batch.valid, config.image).to(model.config.params_dtype)
        return model(batch, pixels, compute_loss=True).sum() / answers

    def step(samples: list[EncodedSample]) -> None:
        loss(samples).backward()
        optimizer.step(LEARNING_RATE)

    return _measure(loss, step, batches, device)


def _measure_theirs(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    trained: set[Part],
    batches: list[list[EncodedSample]],
    device: torch.device,
    dtype: torch.dtype,
    recompute: bool,
) -> Measured:
    stored = "bfloat16" if dtype == torch.bfloat16 else "float32"
    settings = model_settings(config, Tokens(), stored, custom_code=False)  # type: ignore[arg-type]
    with device:
        model = LlavaForConditionalGeneration._from_config(settings, dtype=dtype, attn_implementation="sdpa")
    model.load_state_dict(weights)
    weights.clear()
    kinds: dict[Part, Any] = {
        "vision": model.model.vision_tower,
        "projection": model.model.multi_modal_projector,
        "language": [model.model.language_model, model.lm_head],
    }
    for part, modules in kinds.items():
        for module in modules if isinstance(modules, list) else [modules]:
            module.requires_grad_(part in trained)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )

    def loss(samples: list[EncodedSample]) -> torch.Tensor:
        return model(**_padded(samples, config, device, dtype), use_cache=False).loss

    def step(samples: list[EncodedSample]) -> None:
        loss(samples).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _measure(loss, step, batches, device)


def _measure(
    loss: Callable[[list[EncodedSample]], torch.Tensor],
    step: Callable[[list[EncodedSample]], None],
    batches: list[list[EncodedSample]],
    device: torch.device,
) -> Measured:
    with torch.no_grad():
        losses = [float(loss(samples)) for samples in batches]
    times = []
    for samples in batches:
        start = time.perf_counter()
        step(samples)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return Measured(losses, statistics.median(times[_WARM_UP_STEPS:]))


def packed(samples: list[EncodedSample]) -> PackedBatch:
    (batch,) = pack(samples, sum(sample.length for sample in samples))
    return batch


def _padded(
    samples: list[EncodedSample], config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return what transformers takes: its labels stand on their own tokens, ours on the token before."""
    longest = max(sample.length for sample in samples)
    tokens = torch.zeros(len(samples), longest, dtype=torch.int64)
    labels = torch.full((len(samples), longest), -100)
    mask = torch.zeros(len(samples), longest, dtype=torch.int64)
    for row, sample in enumerate(samples):
        tokens[row, : sample.length] = sample.tokens
        labels[row, 1 : sample.length] = sample.labels[:-1]
        mask[row, : sample.length] = 1
    pixels = torch.cat([normalise(sample.pixels, sample.valid, config.image) for sample in samples])
    return {
        "input_ids": tokens.to(device),
        "attention_mask": mask.to(device),
        "labels": labels.to(device),
        "pixel_values": pixels.to(device, dtype),
    }


def samples(config: ModelConfig, recipe: str, count: int, seed: int) -> list[EncodedSample]:
    """Draw samples whose texts are as long as captions (pretraining) or conversations of three turns (SFT).

    The lengths are log-normal, scaled with the number of image tokens: captions have about 20 tokens at 576 image tokens,
    conversations about 200, of which three fifths are answers.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = config.image.tokens / _FULL_IMAGE_TOKENS
    median, spread = (20, 0.4) if recipe == "pretraining" else (200, 0.7)
    made = []
    for number in range(count):
        drawn = float(torch.randn((), generator=generator))
        text = min(max(int(scale * median * 2.718281828 ** (spread * drawn)), 5), int(scale * 1400))
        words = torch.randint(3, config.language.vocabulary_size - 1, (text,), generator=generator)
        image = torch.full((config.image.tokens,), config.image_token_id)
        tokens = torch.cat([torch.tensor([1]), image, words, torch.tensor([2])])
        labels = tokens.roll(-1)
        labels[: config.image.tokens] = -100
        labels[-1] = -100
        if recipe == "SFT":
            turn = -(-text // 3)
            for start in range(config.image.tokens, len(tokens) - 1, turn):
                labels[start : start + 2 * turn // 5] = -100
        pixels = torch.randint(0, 256, (1, 3, config.image.size, config.image.size), generator=generator)
        valid = torch.full((1, 2), config.image.size)
        made.append(EncodedSample(str(number), tokens, labels, pixels.to(torch.uint8), valid))
    return made


def _exported(config: ModelConfig, model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    """Return the model's weights under transformers' names, by the rules of the export; on the CPU."""
    parameters = {_stored_name(name): parameter.detach() for name, parameter in model.named_parameters()}
    outline = build_model(config, device=torch.device("meta"), layers="local")
    plan = plan_tensors(config, outline, lambda name: parameters[name], module_names=True)
    return {
        name: tensor.cpu().clone()
        for group in plan.groups
        for name, tensor in zip(group.names, group.make(), strict=True)
    }


def _stored_name(name: str) -> str:
    """Return the plain layers' name of a norm that Transformer Engine holds in the linear layer behind it."""
    for engine, plain in (
        (".self_attention.linear_qkv.layer_norm_", ".input_layernorm."),
        (".mlp.linear_fc1.layer_norm_", ".pre_mlp_layernorm."),
    ):
        name = name.replace(engine, plain)
    return name


def _flops(config: ModelConfig, work: StepWork, trained: set[Part]) -> int:
    return forward_flops(config, work.forward) + backward_flops(config, work.backward, trained)


def _ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product, the best of ten."""
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _recipe(trained: set[Part]) -> Recipe:
    return Recipe(
        train_language="language" in trained,
        train_vision="vision" in trained,
        train_projector="projection" in trained,
        prompt_format="plain",
        iterations=1,
        global_batch_size=1,
        sequence_length=8,
        learning_rate=LEARNING_RATE,
        min_learning_rate=0,
        save_interval=1,
    )


def full_config(layers: int) -> ModelConfig:
    """Mistral 7B and CLIP ViT-L/14@336; the projector as wide as transformers' own Llava has it."""
    return ModelConfig(
        language=changed(MISTRAL_7B, num_layers=layers),
        vision=CLIP_L_336,
        projector=ProjectorConfig(ffn_hidden_size=4096),
        image=IMAGE_336,
        image_token_id=32767,
    )


def _small(layers: int) -> ModelConfig:
    """The full model's proportions at an eighth of its width, a quarter of its depth and of its image tokens."""
    language = changed(
        MISTRAL_7B, num_layers=layers, hidden_size=512, ffn_hidden_size=1792, num_attention_heads=8, num_query_groups=2,
        kv_channels=64, vocabulary_size=4096, padded_vocabulary_size=4096, max_position_embeddings=1024,
    )  # fmt: skip
    return ModelConfig(
        language=language,
        vision=changed(
            CLIP_L_336, num_layers=6, hidden_size=128, ffn_hidden_size=512, num_attention_heads=4, image_size=168
        ),
        projector=ProjectorConfig(ffn_hidden_size=512),
        image=ImageSettings(size=168, patch=14),
        image_token_id=4095,
    )


if __name__ == "__main__":
    main()
