"""Source `random://`: small models of any family with random weights, and a tokenizer of the dataset's own text."""

import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.download import layout
from components.download.weights import LANGUAGE, VISION
from components.download.weights_config import WeightsConfig
from components.errors import ConfigurationError, InputError
from components.model.families.language.registry import language_family
from components.model.families.vision.registry import vision_family
from components.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.model.families.language.family import LanguageFamily

_UNKNOWN = "<unk>"
_TOWER_SUFFIX = "_vision_model"  # of the model_type of a tower alone


class ControlTokens(NamedTuple):
    """The control tokens of a family's tokenizers, by what they do.

    Attributes:
        names: All of them, in the order of their ids.
        begin: Begins a text; empty where the family has no such token.
        end: Ends an answer.
        padding: Pads.
    """

    names: tuple[str, ...]
    begin: str
    end: str
    padding: str

    @classmethod
    def of(cls, family: "LanguageFamily") -> "ControlTokens":
        """Return those that a family's chats need; Mistral's first five have the ids that they have in its own tokenizer."""
        chat = family.chat
        begin, padding = chat.begin_tokens[:1], chat.padding_tokens[:1]
        needed = (*begin, *chat.end_tokens, *chat.control_tokens, *chat.templates[0].needs)
        names = tuple(dict.fromkeys((_UNKNOWN, *needed, *chat.image_tokens[:1], *padding)))
        return cls(names, begin[0] if begin else "", chat.end_tokens[0], padding[0])

    @property
    def ids(self) -> dict[str, int | None]:
        """Ids as a model's configuration names them."""
        return {
            "bos_token_id": self.names.index(self.begin) if self.begin else None,
            "eos_token_id": self.names.index(self.end),
            "pad_token_id": self.names.index(self.padding),
        }


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
        control = ControlTokens.of(language_family(config.language.family))
        tokenizer = train_tokenizer(raw, config.vocabulary, control)
        save_tokenizer(tokenizer, control, folder / LANGUAGE)
        progress.start("initialising models", None, "models")
        tokens = tokenizer.get_vocab_size()
        facts |= {"tokens": tokens, "language_parameters": _write_language(config, tokens, control, folder / LANGUAGE)}
    if VISION in parts:
        facts["vision_parameters"] = _write_vision(config, folder / VISION)
    return facts


def train_tokenizer(raw: Path, vocabulary: int, control: ControlTokens) -> "Tokenizer":
    """Train a byte-level BPE on every human and model turn of the dataset."""
    return train_on_texts(_texts(raw), vocabulary, control)


def train_on_texts(texts: Iterable[str], vocabulary: int, control: ControlTokens) -> "Tokenizer":
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
        special_tokens=list(control.names),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if control.begin:
        begin = control.begin
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin} $B",
            special_tokens=[(begin, control.names.index(begin))],
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


def save_tokenizer(tokenizer: "Tokenizer", control: ControlTokens, folder: Path) -> None:
    """Write a trained tokenizer as transformers does."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        bos_token=control.begin or None,
        eos_token=control.end,
        pad_token=control.padding,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def _write_language(config: WeightsConfig, tokens: int, control: ControlTokens, folder: Path) -> int:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    fields = {**config.language.fields, "vocab_size": tokens, **control.ids}
    return _write(MODEL_FOR_CAUSAL_LM_MAPPING, "weights.language", config.language.family, fields, config.seed, folder)


def _write_vision(config: WeightsConfig, folder: Path) -> int:
    from transformers import MODEL_MAPPING

    family = vision_family(config.vision.family)
    model_type = next(name for name in family.model_types if name.endswith(_TOWER_SUFFIX))
    # Another stream than the language model's: equal shapes must not get equal values.
    return _write(MODEL_MAPPING, "weights.vision", model_type, config.vision.fields, config.seed + 1, folder)


def _write(models: Any, setting: str, model_type: str, fields: dict[str, Any], seed: int, folder: Path) -> int:
    """Initialise a model, write it, and return its number of parameters.

    Args:
        models: transformers' table of classes, by their configuration's.
        setting: Where the shape comes from, for errors.
        model_type: The configuration's name.
        fields: Its fields.
        seed: Of the weights.
        folder: Where to write.
    """
    import torch
    from transformers import AutoConfig

    try:
        model_config = AutoConfig.for_model(model_type, **fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = models[type(model_config)](model_config)
    except Exception as error:  # a shape that can't work shows as whatever torch or transformers raises
        raise ConfigurationError(f"{setting} does not describe a model that transformers can build: {error}") from error
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
