"""Source `random://`: small Mistral and CLIP models with random weights, and a tokenizer of the dataset's own text."""

import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from components.download import layout
from components.download.config import WeightsConfig
from components.download.weights import LANGUAGE, VISION
from components.errors import ConfigurationError, InputError
from components.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The first five have the ids that they have in Mistral's own tokenizer.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>")
_UNKNOWN, _BEGIN, _END, _PADDING = "<unk>", "<s>", "</s>", "<pad>"


def write_random_weights(
    config: WeightsConfig, parts: Collection[str], raw: Path | None, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write `language/`, `vision/` or both in Hugging Face layout; the same arguments give the same bytes.

    Args:
        config: The models' shapes, the vocabulary, the seed.
        parts: Which of the two.
        raw: Raw dataset folder whose text the tokenizer is trained on; needed for the language model.
        folder: Where to write; existing files are replaced.
        progress: Told what is being done.

    Returns:
        Facts: number of tokens and of parameters.

    Raises:
        ConfigurationError: The shapes do not fit together.
        InputError: The dataset has no text.
    """
    facts: dict[str, Any] = {}
    for part in parts:
        shutil.rmtree(folder / part, ignore_errors=True)
    if LANGUAGE in parts:
        assert raw is not None  # the stage sees to that
        progress.start("training the tokenizer", None, "texts")
        tokenizer = train_tokenizer(raw, config.vocabulary)
        save_tokenizer(tokenizer, folder / LANGUAGE)
        progress.start("initialising models", None, "models")
        tokens = tokenizer.get_vocab_size()
        facts |= {"tokens": tokens, "language_parameters": _write_language(config, tokens, folder / LANGUAGE)}
    if VISION in parts:
        facts["vision_parameters"] = _write_vision(config, folder / VISION)
    return facts


def train_tokenizer(raw: Path, vocabulary: int) -> "Tokenizer":
    """Train a byte-level BPE on every human and model turn of the dataset."""
    return train_on_texts(_texts(raw), vocabulary)


def train_on_texts(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """Train a byte-level BPE.

    Words are learnt with the blank before them, and the first word of a text gets one too, so that a word has one id
    wherever it stands.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN} $B", special_tokens=[(_BEGIN, SPECIAL_TOKENS.index(_BEGIN))]
    )
    return tokenizer


def _texts(raw: Path) -> Iterator[str]:
    found = False
    for name in (layout.PRETRAIN, layout.SFT):
        for entry in json.loads((raw / name).read_bytes()):
            for turn in entry["conversations"]:
                found = True
                yield turn["value"].replace("<image>", "").strip()
    if not found:
        raise InputError(f"{raw} has no text to train a tokenizer on: {layout.PRETRAIN} and {layout.SFT} are empty.")


def save_tokenizer(tokenizer: "Tokenizer", folder: Path) -> None:
    """Write a trained tokenizer as transformers does."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PADDING,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def _write_language(config: WeightsConfig, tokens: int, folder: Path) -> int:
    from transformers import MistralConfig, MistralForCausalLM

    derived = {
        "vocab_size": tokens,
        "bos_token_id": SPECIAL_TOKENS.index(_BEGIN),
        "eos_token_id": SPECIAL_TOKENS.index(_END),
        "pad_token_id": SPECIAL_TOKENS.index(_PADDING),
    }
    return _write(MistralConfig, MistralForCausalLM, "weights.language", config.language, derived, config.seed, folder)


def _write_vision(config: WeightsConfig, folder: Path) -> int:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    # Another stream than the language model's: equal shapes must not get equal values.
    seed = config.seed + 1
    return _write(CLIPVisionConfig, CLIPVisionModel, "weights.vision", config.vision, {}, seed, folder)


def _write(
    config_type: Any,
    model_type: Any,
    setting: str,
    fields: BaseModel,
    derived: dict[str, Any],
    seed: int,
    folder: Path,
) -> int:
    """Initialise a model, write it, and return its number of parameters."""
    import torch

    try:
        model_config = config_type(**fields.model_dump(), **derived)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_type(model_config)
    except Exception as error:  # a shape that can't work shows as whatever torch or transformers raises
        raise ConfigurationError(f"{setting} does not describe a model that transformers can build: {error}") from error
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
