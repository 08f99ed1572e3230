"""Hugging Face's `config.json`: read, asked for by key, and refused by name where a feature is not supported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InputError

_CONFIG_NAME = "config.json"
_ADAPTER_NAME = "adapter_config.json"


class HfConfig:
    """The content of a `config.json`, and where it comes from.

    Args:
        content: The JSON object.
        source: Where it comes from, for errors.
    """

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        self.content = content
        self.source = source

    @property
    def model_type(self) -> str:
        """The `model_type`, "unknown" if there is none."""
        return str(self.content.get("model_type") or "unknown")

    @property
    def architecture(self) -> str:
        """The name of the model's class, or its `model_type` if the file names no class."""
        return str((self.content.get("architectures") or [self.model_type])[0])

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value; a key that is null or missing gives the default, as transformers takes it."""
        value = self.content.get(key)
        return default if value is None else value

    def required(self, key: str) -> Any:
        """Return a value.

        Raises:
            InputError: The key is null or missing.
        """
        if self.content.get(key) is None:
            raise InputError(f"{self.source} has no {key}.")
        return self.content[key]

    def refuse_unless(self, key: str, *supported: Any) -> None:
        """Refuse a value that is not supported; a missing key means the first that is.

        Raises:
            InputError: The value is another one.
        """
        value = self.content.get(key, supported[0])
        if value not in supported:
            raise InputError(f"{self.source} has {key} = {value!r}; supported is {' or '.join(map(repr, supported))}.")

    def inner(self, key: str) -> "HfConfig":
        """Return the object below a key; this one where there is no such key."""
        content = self.content.get(key)
        return HfConfig(content, f"{self.source} ({key})") if isinstance(content, Mapping) else self


def read_hf_config(folder: Path) -> HfConfig:
    """Read `config.json` of a folder in Hugging Face layout.

    Raises:
        InputError: The file is missing or not a JSON object, or the folder holds an adapter or quantised weights.
    """
    path = folder / _CONFIG_NAME
    if (folder / _ADAPTER_NAME).is_file() and not path.is_file():
        raise InputError(_adapter_refusal(folder))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}). Expected a model in Hugging Face layout."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    config = HfConfig(content, str(path))
    _refuse_quantised(config)
    return config


def _adapter_refusal(folder: Path) -> str:
    try:
        settings = json.loads((folder / _ADAPTER_NAME).read_text(encoding="utf-8"))
        kind = str(settings.get("peft_type", "PEFT"))
        base = str(settings.get("base_model_name_or_path") or "its base model")
    except (OSError, ValueError, AttributeError):
        kind, base = "PEFT", "its base model"
    return (
        f"{folder} holds a {kind} adapter, not a model: its weights are differences to {base}. Merge them first "
        "(peft: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)), or convert the base."
    )


def _refuse_quantised(config: HfConfig) -> None:
    settings = config.get("quantization_config")
    if settings is None:
        return
    details = settings if isinstance(settings, Mapping) else {}
    method = str(details.get("quant_method") or ("bitsandbytes" if _is_bitsandbytes(details) else "an unnamed method"))
    bits = details.get("bits") or (4 if details.get("load_in_4bit") else 8 if details.get("load_in_8bit") else None)
    raise InputError(
        f"{config.source} describes quantised weights ({method}{f', {bits} bit' if bits else ''}; quantization_config). "
        "Training needs the weights that they were made of: take the model's unquantised repository (bfloat16 or float16)."
    )


def _is_bitsandbytes(details: Mapping[str, Any]) -> bool:
    return any(key.startswith(("load_in_", "bnb_", "_load_in_")) for key in details)
