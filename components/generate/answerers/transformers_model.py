"""A model of transformers answers: whatever `AutoModelForImageTextToText` and `AutoProcessor` load, by its own `generate`.

It is asked as its authors ask it: by its chat template where it has one, pictures where the prompt has them. Of its own generation settings
(`generation_config.json`) the end tokens and penalties stay; beams and draws don't: tokens are chosen as the generation's settings say.
"""

import contextlib
import copy
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from components.data.conversation import parts_in_order
from components.data.pictures import Pictures
from components.errors import InputError, StageError
from components.export.loading import is_wide_export, load_wide_export
from components.generate.answerer import Answer, Answerer, Asking, Place, read_ahead
from components.generate.config import GenerateConfig
from components.generate.controls import BLANK_SIDE, blank_like
from components.generate.encoded_pictures import EncodedPictures
from components.generate.requests import BLANK, ModelInput, batches_by_picture
from components.model.distributed import destroy, initialize
from components.model.sampling import Chooser
from components.published_model.stage import trusts_code


@contextlib.contextmanager
def open_model(folder: Path, config: GenerateConfig) -> Iterator[Answerer]:
    """Load a model; every process of a task has a copy of its own."""
    parallel = initialize(1)
    try:
        dtype = torch.bfloat16 if parallel.device.type == "cuda" else torch.float32
        model, processor = _load(folder, dtype)
        place = Place(
            rank=parallel.rank,
            processes=parallel.world_size,
            copy=parallel.data_rank,
            copies=parallel.data_parallel,
        )
        yield TransformersModel(model.to(parallel.device).eval(), processor, place)
    finally:
        destroy()


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return model and processor.

    Raises:
        InputError: transformers can't load them.
    """
    from transformers import AutoModelForImageTextToText

    try:
        if is_wide_export(folder):
            return load_wide_export(folder, dtype)
        trusted = trusts_code(folder)
        processor = _processor(folder, trusted)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trusted, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        kind, said = _architecture(folder), " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"transformers can't load {folder} ({kind}) as a model that reads pictures: {said}. {_advice()}"
        ) from error
    return model, processor


def _processor(folder: Path, trusted: bool) -> Any:
    """Return the processor, with PIL for pictures: they must not be resized otherwise where torchvision is installed.

    Raises:
        ImportError: It needs a package that is missing, or of another build than PyTorch.
    """
    from transformers import AutoImageProcessor, AutoProcessor

    # local_files_only: a folder that names further repositories must not make this process fetch them.
    given: dict[str, Any] = {"trust_remote_code": trusted, "local_files_only": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, **given)
        if hasattr(processor, "image_processor"):
            # Asked of the whole processor, videos' would have to be PIL's too, and there is none.
            processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **given)
    except RuntimeError as error:  # as a torchvision of another build fails
        raise ImportError(str(error)) from error
    return processor


@dataclass(frozen=True)
class _Prepared:
    """A batch that the processor has read.

    Attributes:
        read: What it made of prompts and pictures.
        keys: What the draws of every prompt depend on.
        pictures: The picture of every prompt, with its folder; none where a prompt has several.
    """

    read: Any
    keys: list[str]
    pictures: list[tuple[Path, str]]


class TransformersModel(Answerer):
    """A loaded model.

    Args:
        model: A model with `generate`, in evaluation mode, on its device.
        processor: Its processor.
        place: Where the process stands.
    """

    def __init__(self, model: Any, processor: Any, place: Place) -> None:
        self.model, self.processor, self.place = model, processor, place
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"  # answers grow at the right
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._ends = _end_tokens(model, self.tokenizer)
        self._settings = _without_draws(model, self.tokenizer, self._ends)
        self._example = ""
        self._encoded = EncodedPictures(model)

    def batches(self, inputs: Sequence[ModelInput], asking: Asking) -> list[list[int]]:
        """Put prompts about the same pictures together, and about equally long ones, without reading pictures."""
        asked = [(shown.prompt, len(shown.pictures)) for shown in inputs]
        texts = {one: self._text(*one, asking) for one in set(asked)}
        lengths = {one: len(self.tokenizer(text, add_special_tokens=False).input_ids) for one, text in texts.items()}
        return batches_by_picture(
            [lengths[one] for one in asked], [shown.pictures for shown in inputs], asking.batch_size
        )

    def answer(
        self, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: Pictures
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answer batches in order."""

        def prepare(batch: Sequence[ModelInput]) -> _Prepared:
            names = dict.fromkeys(name for shown in batch for name in shown.pictures)
            opened = {name: _picture(name, pictures) for name in names}
            images = [[opened[name] for name in shown.pictures] for shown in batch]
            texts = [self._text(shown.prompt, len(shown.pictures), asking) for shown in batch]
            self._example = self._example or texts[0]
            adds = not _begins_with(texts[0], self.tokenizer.bos_token)
            read = self.processor(text=texts, images=images, padding=True, return_tensors="pt", add_special_tokens=adds)
            single = all(len(shown.pictures) == 1 for shown in batch)
            return _Prepared(
                read,
                [shown.draws for shown in batch],
                [(pictures.folder, shown.pictures[0]) for shown in batch] if single else [],
            )

        def answers(prepared: _Prepared) -> list[Answer]:
            return self._continue(prepared, asking)

        return read_ahead(batches, prepare, answers)

    def facts(self) -> dict[str, Any]:
        """Return how a question reads to the model."""
        return {"example_prompt": self._example} if self._example else {}

    @torch.no_grad()
    def _continue(self, prepared: "_Prepared", asking: Asking) -> list[Answer]:
        inputs = prepared.read.to(self.model.device, dtype=self.model.dtype)
        chosen: dict[str, Any] = {}
        if not asking.sampling.greedy:
            chosen["logits_processor"] = [_Chosen(Chooser(asking.sampling, prepared.keys))]
        self._check_length(inputs["input_ids"].shape[1], asking.max_new_tokens)
        self._settings.max_new_tokens = asking.max_new_tokens
        shown = self._encoded.in_place(inputs, prepared.pictures) if prepared.pictures else inputs
        found = self.model.generate(**shown, generation_config=self._settings, **chosen)
        # An encoder's model gives its answer alone, after the token that it starts with.
        begin = 1 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._answer(tokens, length) for tokens, length in zip(found[:, begin:].tolist(), lengths, strict=True)]

    def _check_length(self, prompt: int, new: int) -> None:
        """Refuse what the model has no positions for: transformers would go on all the same, or fail without a word of why."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and prompt + new - 1 > most:
            raise StageError(
                f"A prompt of {prompt} tokens and {new} new ones are more than the language model was made for ({most}, "
                "max_position_embeddings). Shorten the prompt or max_new_tokens."
            )

    def _answer(self, tokens: list[int], prompt_tokens: int) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), len(tokens))
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Where a word's boundary is part of it, an answer begins with a blank that is not said.
        return Answer(text.removeprefix(" "), end, prompt_tokens)

    def _text(self, prompt: str, pictures: int, asking: Asking) -> str:
        """Return what the model reads, a placeholder for every picture included."""
        image = str(getattr(self.processor, "image_token", "") or "")
        if asking.prompt_format == "plain":
            begin = "" if _adds_beginning(self.tokenizer) else self.tokenizer.bos_token or ""
            return f"{begin}{image * pictures}"
        parts = parts_in_order(prompt, pictures)
        if not self.processor.chat_template:
            return "".join(image if part is None else part for part in parts)
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered


class _Chosen:
    """Lets transformers' greedy search take the tokens that a `Chooser` draws; a prompt's draws are its own."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = self._chooser.choose(scores, range(scores.shape[0]))
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def _picture(name: str, pictures: Pictures) -> Image:
    return blank_like((BLANK_SIDE, BLANK_SIDE)) if name == BLANK else pictures.open(name)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise InputError(
            "The model names no token that ends an answer, neither in generation_config.json nor its tokenizer."
        )
    return {ends} if isinstance(ends, int) else set(ends)


def _without_draws(model: Any, tokenizer: Any, ends: set[int]) -> Any:
    """Return the model's own generation settings, greedy and of one beam."""
    settings = copy.deepcopy(model.generation_config)
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length"):
        setattr(settings, name, None)
    settings.do_sample, settings.num_beams = False, 1
    settings.eos_token_id = sorted(ends)
    settings.pad_token_id = tokenizer.pad_token_id
    return settings


def _begins_with(text: str, token: str | None) -> bool:
    return bool(token) and text.startswith(str(token))


def _adds_beginning(tokenizer: Any) -> bool:
    """Tell whether a tokenizer puts its beginning token before a text by itself, or has none."""
    beginning = tokenizer.bos_token_id
    return beginning is None or tokenizer("a").input_ids[:1] == [beginning]


def _advice() -> str:
    text = "A model with code of its own needs trust_remote_code; others may need a newer transformers, or an endpoint that serves them."
    if problem := torchvision_problem():
        text += (
            " Models that also take videos (Qwen-VL, SmolVLM, InternVL, LLaVA-OneVision) need what vlm-pipelines[hub] installs, and "
            f"torchvision of the build that PyTorch is of (here: {problem})."
        )
    return text


def torchvision_problem() -> str:
    """Return why torchvision can't be used here; empty where it can."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:  # RuntimeError: it is of another build than PyTorch
        return str(error)
    return ""


def _architecture(folder: Path) -> str:
    try:
        return ", ".join(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"])
    except (OSError, ValueError, KeyError, TypeError):
        return "of an unknown architecture"
