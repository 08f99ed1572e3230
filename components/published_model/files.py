"""Which files of a published model are fetched: configuration, processor, safetensors; code only where it is trusted."""

import re
from collections.abc import Sequence

from components.download.fetched import Choice
from components.errors import InputError

_CONFIG = "config.json"
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_INDEX = "model.safetensors.index.json"
_BESIDES = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_OTHER_INDEX = re.compile(r".*\.index\.json")
_CODE = ".py"


def needed_files(trust_remote_code: bool) -> Choice:
    """Return what picks the needed files of a repository or folder.

    Args:
        trust_remote_code: Whether its code is taken along.
    """

    def choose(names: Sequence[str], shown: str) -> Sequence[str]:
        if _CONFIG not in names:
            raise InputError(f"{shown}/{_CONFIG} is missing: expected a model in Hugging Face layout in {shown}.")
        weights = [name for name in names if _WEIGHTS.fullmatch(name)]
        if not weights:
            raise InputError(
                f"{shown} has no model*.safetensors, and no other weights are loaded: pickles can run code. Take another "
                "revision, or load the model with transformers and store it with save_pretrained."
            )
        if len(weights) > 1:  # a whole file beside the parts is the same weights again
            weights = [name for name in weights if name != "model.safetensors"]
        endings = (*_BESIDES, _CODE) if trust_remote_code else _BESIDES
        besides = [
            name
            for name in names
            if name.endswith(endings) and (name == _INDEX or not _OTHER_INDEX.fullmatch(name)) and _belongs(name)
        ]
        return [*weights, *besides]

    return choose


def _belongs(name: str) -> bool:
    """Tell whether a file lies where transformers looks: at the top, or among further chat templates."""
    return "/" not in name or name.startswith("additional_chat_templates/")
