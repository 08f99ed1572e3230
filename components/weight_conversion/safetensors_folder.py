"""Tensors of a model in Hugging Face layout, read one at a time from one or several safetensors files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.errors import InputError

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


class SafetensorsFolder:
    """The tensors of a folder; files are mapped into memory, and a tensor is read when it is asked for.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and the files that it names.

    Raises:
        InputError: There is no such file, or one is missing, truncated or not what the index says; it is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        files = [_SINGLE_FILE] if index is None else sorted(set(index.values()))
        self._files = {name: _open(folder / name) for name in files}
        self._place = {tensor: name for name, file in self._files.items() for tensor in file.keys()}  # noqa: SIM118
        for tensor, name in (index or {}).items():
            if tensor not in self._files[name].keys():  # noqa: SIM118
                raise InputError(f"{folder / name} does not hold the tensor {tensor}, although {_INDEX_FILE} says so.")

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return sorted(self._place)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Types of all floating-point tensors."""
        kinds = {self._files[self._place[name]].get_slice(name).get_dtype() for name in self._place}
        return {_FLOATS[kind] for kind in kinds if kind in _FLOATS}

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: No file holds it, or its file is damaged.
        """
        if name not in self._place:
            raise InputError(f"{self.folder} has no tensor {name}: the weights are incomplete or of another model.")
        try:
            tensor: Tensor = self._files[self._place[name]].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(f"{self.folder / self._place[name]} is damaged at the tensor {name}: {error}") from error
        return tensor


def _read_index(folder: Path) -> dict[str, str] | None:
    path = folder / _INDEX_FILE
    if not path.is_file():
        if (folder / _SINGLE_FILE).is_file():
            return None
        raise InputError(
            f"{folder} holds neither {_SINGLE_FILE} nor {_INDEX_FILE}. Weights in other formats (pytorch_model.bin) are "
            "not read: save them as safetensors."
        )
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        index = {str(tensor): str(name) for tensor, name in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not an index of safetensors files: {error!r}") from error
    outside = [name for name in index.values() if Path(name).name != name]
    if outside:
        raise InputError(f"{path} names {outside[0]!r}: files must lie in the same folder.")
    return index


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise InputError(f"{path} is missing, although {_INDEX_FILE} names it. Fetch it again.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or not a safetensors file: {error}. Fetch it again.") from error
