"""What turns a person's pictures and words into the model's input: tokenizer, chat template, image processor."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from components.data.image_settings import ImageSettings
from components.data.tokenizer import TOKENIZER_FILE, ChatTokenizer
from components.errors import InputError
from components.model.config import ModelConfig
from components.storage.atomic import write_json, write_text

CHAT_TEMPLATE_FILE = "chat_template.jinja"

_PIL_BICUBIC = 3
_BOUNDARIES = (" ", "")
_PROBES = ("a", "Zwölf Boote", "(A) 1\n(B) 2", "漢字 🙂", "two  spaces")


def write_processing(folder: Path, config: ModelConfig, source: Path, *, custom_code: bool) -> dict[str, str]:
    """Write the files that `AutoProcessor` loads.

    Args:
        folder: The export.
        config: The model.
        source: Folder of the model's tokenizer.
        custom_code: Whether the folder carries code, the image processor's included.

    Returns:
        Role ("bos", "image") to name of the control tokens.

    Raises:
        InputError: transformers can't encode a chat as this project does with this tokenizer.
    """
    chat = ChatTokenizer.load(source)
    content = json.loads((source / TOKENIZER_FILE).read_text(encoding="utf-8"))
    names = _control_names(content, chat)
    exported = _parsing(content, names)
    boundary = _boundary(exported, chat, names, source / TOKENIZER_FILE)
    write_text(folder / TOKENIZER_FILE, json.dumps(exported, ensure_ascii=False))
    write_json(folder / "tokenizer_config.json", _tokenizer_settings(content, config, names))
    write_text(folder / CHAT_TEMPLATE_FILE, _chat_template(names, boundary))
    write_json(folder / "preprocessor_config.json", _image_settings(config.image, custom_code=custom_code))
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": names["image"],
            "patch_size": config.image.patch,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,  # the class token, which the strategy drops again
        },
    )
    return names


def _control_names(content: Mapping[str, Any], chat: ChatTokenizer) -> dict[str, str]:
    """Return role to name of the control tokens."""
    by_id = {number: name for name, number in content["model"]["vocab"].items()}
    by_id.update({token["id"]: token["content"] for token in content.get("added_tokens") or []})
    return {role: by_id[getattr(chat, role)] for role in ("bos", "eos", "inst", "inst_end", "image", "pad")}


def _parsing(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a `tokenizer.json` that cuts control tokens out of a text, exactly and before anything else.

    It adds none by itself: the chat template writes `<s>`, once.
    """
    vocabulary = content["model"]["vocab"]
    added = {token["content"]: token for token in content.get("added_tokens") or []}
    for name in names.values():
        number = added[name]["id"] if name in added else vocabulary[name]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added[name] = {"id": number, "content": name, **flags}
    tokens = sorted(added.values(), key=lambda token: int(token["id"]))
    return {**content, "added_tokens": tokens, "post_processor": None, "truncation": None, "padding": None}


def _boundary(exported: Mapping[str, Any], chat: ChatTokenizer, names: Mapping[str, str], source: Path) -> str:
    """Return what the template writes before a text so that its first word gets the ids that it had in training."""
    tokenizer = Tokenizer.from_str(json.dumps(exported))
    for boundary in _BOUNDARIES:
        if all(_encodes(tokenizer, chat, names, boundary, text) for text in _PROBES):
            return boundary
    raise InputError(
        f"{source} gives a text after a control token other ids than the same text alone, so that a chat template can't "
        "express the prompts that the model was trained on. Use a tokenizer with a Metaspace or ByteLevel pre-tokenizer."
    )


def _encodes(tokenizer: Tokenizer, chat: ChatTokenizer, names: Mapping[str, str], boundary: str, text: str) -> bool:
    found = tokenizer.encode(
        f"{names['bos']}{names['inst']}{names['image']}{boundary}{text}{names['inst_end']}{boundary}{text}{names['eos']}",
        add_special_tokens=False,
    ).ids
    ids = chat.encode(text)
    return bool(found == [chat.bos, chat.inst, chat.image, *ids, chat.inst_end, *ids, chat.eos])


def _tokenizer_settings(content: Mapping[str, Any], config: ModelConfig, names: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; others rebuild it by their model's rules.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "bos_token": names["bos"],
        "eos_token": names["eos"],
        "pad_token": names["pad"],
        "padding_side": "left",
        "model_max_length": config.language.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": names["image"]},
    }
    unknown = content["model"].get("unk_token")
    return {**settings, "unk_token": unknown} if unknown else settings


def _chat_template(names: Mapping[str, str], boundary: str) -> str:
    template = (resources.files("components.export") / "chat_template.j2").read_text(encoding="utf-8")
    values = {
        "BEGIN": names["bos"],
        "END": names["eos"],
        "INSTRUCTION": names["inst"],
        "INSTRUCTION_END": names["inst_end"],
        "IMAGE": names["image"],
        "BOUNDARY": boundary,
    }
    for name, value in values.items():
        template = template.replace(f"<<{name}>>", value)
    return template


def _image_settings(image: ImageSettings, *, custom_code: bool) -> dict[str, Any]:
    square = {"height": image.size, "width": image.size}
    size = {
        "pad": {"max_height": image.size, "max_width": image.size},
        "squash": square,
        "center_crop": {"shortest_edge": image.size},
    }[image.layout]
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": _PIL_BICUBIC,
        "size": size,
        "do_center_crop": image.layout == "center_crop",
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
    if image.layout == "pad":
        settings |= {"do_pad": True, "pad_size": square}
    if custom_code:
        settings["image_processor_type"] = "WideLlavaImageProcessor"
        settings["auto_map"] = {"AutoImageProcessor": "image_processing_wide_llava.WideLlavaImageProcessor"}
    return settings
