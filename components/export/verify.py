"""Proof of an export: transformers computes from the folder what this project computes from the checkpoint.

Both sides compute in float32 and hold one layer at a time, whatever the model's size. The pictures and words go through
the folder's own processor and chat template on one side, and through this project's preprocessing on the other.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from components.data.image import normalise
from components.data.packing import EncodedSample, pack
from components.data.prompt import encode_prompt
from components.errors import StageError
from components.export.config import ExportConfig
from components.export.loading import exported_outline, load_processor
from components.export.pixels import compare_pixels
from components.export.source import ModelSource
from components.export.tensors import TensorPlan
from components.model.decoding import generate
from components.model.sampling import forbid
from components.model.streaming import Read, layers_streamed
from components.model.vlm import VisionLanguageModel
from components.weight_conversion.safetensors_folder import SafetensorsFolder

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_SEED = 20241


@dataclass(frozen=True)
class Case:
    """A question, with a picture or without."""

    question: str
    picture: Image.Image | None


@dataclass(frozen=True)
class Verification:
    """What was measured.

    Attributes:
        max_logit_difference: Over all tokens of all prompts and answers, and the whole vocabulary.
        max_pixel_difference: Of normalised pixels, over pictures that both sides resize alike.
        greedy_tokens: Tokens of the greedy answers, all of them equal.
        sizes: Picture sizes that were compared.
        sizes_alike: Those of them that both sides resize to the same height and width.
    """

    max_logit_difference: float
    max_pixel_difference: float
    greedy_tokens: int
    sizes: int
    sizes_alike: int


def verify_export(
    source: ModelSource,
    folder: Path,
    plan: TensorPlan,
    config: ExportConfig,
    dtype: torch.dtype,
    progress: Callable[[int, int], None],
) -> Verification:
    """Compare an export with the checkpoint that it was made of; process groups must be set up.

    Args:
        source: The exported model.
        folder: The export: configuration, tensors and processor's files.
        plan: Its tensors.
        config: The export's settings.
        dtype: Type of the exported tensors; the checkpoint's are rounded to it for the comparison.
        progress: Called with the number of tensors read, and how many there are to read.

    Raises:
        StageError: Token ids, pixels, logits or greedy answers differ.
    """
    processor = load_processor(folder, config)
    cases = _cases(source.config.image.size)
    prompts = [_own_prompt(source, case) for case in cases]
    inputs = [_exported_prompt(processor, case) for case in cases]
    for case, prompt, given in zip(cases, prompts, inputs, strict=True):
        if given["input_ids"][0].tolist() != prompt.tokens.tolist():
            raise StageError(
                f"The exported chat template and tokenizer give {case.question!r} other tokens than training did: "
                f"{given['input_ids'][0].tolist()} against {prompt.tokens.tolist()}."
            )
    pixels = compare_pixels(source.config.image, processor, config)
    room = source.config.language.max_position_embeddings - max(prompt.length for prompt in prompts)
    new_tokens = max(1, min(config.verify_tokens, room))
    outline = source.outline(torch.float32)
    own, exported = source.reader(outline), _exported_reader(source, folder, plan)
    count = _Counter(progress, len(own.names) * (new_tokens + 1) + len(plan.module_names))
    rounded = count.counted(lambda name: own(name).to(dtype).float())
    answers, expected = _own_side(source, outline, rounded, prompts, new_tokens)
    ended = [len(answer) < new_tokens for answer in answers]
    model = exported_outline(folder, config)
    found = _exported_side(model, count.counted(exported), inputs, answers)
    vocabulary = source.config.language.vocabulary_size
    differences = [
        (mine[:, :vocabulary] - theirs[:, :vocabulary]).abs().max()
        for mine, theirs in zip(expected, found, strict=True)
    ]
    difference = float(torch.stack(differences).max())  # of NaN too, which Python's max() would lose
    if not difference <= config.tolerance:
        raise StageError(
            f"The exported model's logits differ from the checkpoint's by up to {difference:.3g}; the tolerance is "
            f"{config.tolerance:g}. Either this model has a feature that the export does not know, or export.tolerance is "
            "too tight for its size."
        )
    tokens = 0
    for case, prompt, answer, over, logits in zip(cases, prompts, answers, ended, found, strict=True):
        chosen = [[token] for token in answer] + ([source.tokenizer.ends] if over else [])
        words = forbid(logits[prompt.length - 1 :, :vocabulary].clone(), source.config.image_token_id)
        _check_greedy(case, chosen, words, difference)
        tokens += len(chosen)
    return Verification(difference, pixels.difference, tokens, pixels.sizes, pixels.alike)


def _cases(size: int) -> list[Case]:
    generator = np.random.default_rng(_SEED)
    noise = Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))
    # Twice as long as high: both sides come out whole, however they are rounded.
    wide, high = (_shapes(shape) for shape in ((2 * size, size), (size, 2 * size)))
    return [
        Case("What is in this picture?", noise),
        Case("Describe it in one sentence.", wide),
        Case("Is there a circle?\n(A) yes\n(B) no", high),
        Case("What is your name?", None),
    ]


def _shapes(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "lightgrey")
    draw, side = ImageDraw.Draw(image), min(size)
    draw.ellipse((side // 8, side // 4, side // 2, side * 5 // 8), fill="firebrick")
    draw.rectangle((size[0] - side // 2, size[1] - side // 3, size[0] - side // 8, size[1] - side // 8), fill="navy")
    return image


def _own_prompt(source: ModelSource, case: Case) -> EncodedSample:
    return encode_prompt(
        case.question,
        [] if case.picture is None else [case.picture],
        tokenizer=source.tokenizer,
        settings=source.config.image,
        prompt_format="instruct",
        key=case.question,
    )


def _exported_prompt(processor: "LlavaProcessor", case: Case) -> dict[str, Tensor]:
    content: list[dict[str, Any]] = [{"type": "text", "text": case.question}]
    if case.picture is not None:
        content.append({"type": "image", "image": case.picture})
    chat: list[Any] = [{"role": "user", "content": content}]
    encoded: Any = processor.apply_chat_template(
        chat,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(encoded)


def _own_side(
    source: ModelSource, outline: VisionLanguageModel, read: Read, prompts: Sequence[EncodedSample], new_tokens: int
) -> tuple[list[list[int]], list[Tensor]]:
    """Return the greedy answers, and the logits of prompts and answers."""
    layers = nn.ModuleList([*outline.language_model.decoder.layers, *outline.vision_model.decoder.layers])
    with layers_streamed(outline, layers, read, entry=lambda layer: layer.input_layernorm) as model:
        answers = generate(model, prompts, end_tokens=source.tokenizer.ends, max_new_tokens=new_tokens)
        whole = [_continued(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        (batch,) = pack(whole, sequence_length=sum(sample.length for sample in whole))
        logits = model(batch, normalise(batch.pixels, batch.valid, source.config.image))
    return answers, list(logits.split([sample.length for sample in whole]))


def _continued(prompt: EncodedSample, answer: Sequence[int]) -> EncodedSample:
    tokens = torch.cat([prompt.tokens, torch.tensor(answer, dtype=prompt.tokens.dtype)])
    return dataclasses.replace(prompt, tokens=tokens, labels=torch.full_like(tokens, -100))


def _exported_side(
    model: "LlavaForConditionalGeneration",
    read: Read,
    inputs: Sequence[dict[str, Tensor]],
    answers: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Return transformers' logits of prompts and answers, in one pass over all of them."""
    rows = [
        torch.cat([given["input_ids"][0], torch.tensor(answer, dtype=torch.int64)])
        for given, answer in zip(inputs, answers, strict=True)
    ]
    lengths = [len(row) for row in rows]
    # Padded on the right: nothing that counts sees the padding.
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    pixels = torch.cat([given["pixel_values"] for given in inputs if "pixel_values" in given])
    layers = nn.ModuleList([*model.model.language_model.layers, *model.model.vision_tower.encoder.layers])
    with layers_streamed(model, layers, read) as filled:
        logits = filled(input_ids=tokens, attention_mask=mask.long(), pixel_values=pixels, use_cache=False).logits
    return [row[:length] for row, length in zip(logits, lengths, strict=True)]


def _check_greedy(case: Case, chosen: Sequence[Sequence[int]], logits: Tensor, difference: float) -> None:
    """Compare token by token: what the checkpoint chose (of several ends any) must be the export's choice after the same past.

    Raises:
        StageError: It is another one, and not for the rounding that the logits were found to have.
    """
    for place, tokens in enumerate(chosen):
        best = int(logits[place].argmax())
        if best not in tokens and float(logits[place, best] - logits[place, list(tokens)].max()) > 2 * difference:
            raise StageError(
                f"Asked {case.question!r}, the exported model's {place + 1}. token is {best}, the checkpoint's "
                f"{' or '.join(map(str, tokens))}."
            )


def _exported_reader(source: ModelSource, folder: Path, plan: TensorPlan) -> Read:
    tensors = SafetensorsFolder(folder)
    names = dict(plan.module_names)
    if source.config.language.tied_embeddings:
        names["lm_head.weight"] = names["model.language_model.embed_tokens.weight"]
    return lambda name: tensors.tensor(names[name]).float()


class _Counter:
    """Reports how many tensors were read, by whichever side."""

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def counted(self, read: Read) -> Read:
        """Return `read`, counting."""

        def counting(name: str) -> Tensor:
            value = read(name)
            self._done += 1
            self._report(self._done, self._total)
            return value

        return counting
