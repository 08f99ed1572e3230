"""Tensors of a folder with one or several safetensors files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.errors import InputError
from components.weight_conversion.indexed_files import IndexedFiles

SAFETENSORS = IndexedFiles("model.safetensors", "model.safetensors.index.json")

_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: str
    shape: tuple[int, ...]


class SafetensorsFolder:
    """Reads a tensor when it is asked for.

    A file is mapped into memory for as long as one of its tensors lives, so that reading a large model does not fill
    the memory with pages of its files.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and the files that it names.

    Raises:
        InputError: A file is missing, truncated or not what the index says; it is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = SAFETENSORS.read_index(folder) or {}
        files = sorted(set(index.values())) or [SAFETENSORS.single]
        contents = {file: dict(_places(folder / file)) for file in files}
        for name, file in index.items():
            if name not in contents[file]:
                raise InputError(
                    f"{folder / file} does not hold the tensor {name}, although {SAFETENSORS.index} says so."
                )
        self._places = {name: place for places in contents.values() for name, place in places.items()}

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._places)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Types of all floating-point tensors."""
        return {_FLOATS[place.dtype] for place in self._places.values() if place.dtype in _FLOATS}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._places[name].shape

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: No file holds it, or its file is damaged.
        """
        if name not in self._places:
            raise InputError(f"{self.folder} has no tensor {name}: the weights are incomplete or of another model.")
        path = self._places[name].file
        with _opened(path) as file:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, OSError, RuntimeError) as error:
                raise InputError(f"{path} is damaged at the tensor {name}: {error}. Fetch it again.") from error
        return tensor


def _places(path: Path) -> Iterator[tuple[str, _Place]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            header = file.get_slice(name)
            yield name, _Place(path, header.get_dtype(), tuple(header.get_shape()))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or not a safetensors file: {error}. Fetch it again.") from error
    with file as opened:
        yield opened
