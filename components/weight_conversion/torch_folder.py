"""Tensors of a folder with PyTorch's own files (`pytorch_model.bin`), which older Hugging Face repositories have."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.weight_conversion.indexed_files import IndexedFiles

TORCH_FILES = IndexedFiles("pytorch_model.bin", "pytorch_model.bin.index.json")


class TorchFolder:
    """Reads tensors from files that are mapped into memory; nothing but tensors is unpickled.

    Args:
        folder: Holds `pytorch_model.bin`, or `pytorch_model.bin.index.json` and the files that it names.

    Raises:
        InputError: A file is missing, damaged, or holds anything but tensors; it is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = TORCH_FILES.read_index(folder)
        files = [TORCH_FILES.single] if index is None else sorted(set(index.values()))
        self._tensors = {name: value for file in files for name, value in load_state_dict(folder / file).items()}
        missing = sorted((index or {}).keys() - self._tensors.keys())
        if missing:
            raise InputError(f"{folder} does not hold the tensor {missing[0]}, although {TORCH_FILES.index} says so.")

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._tensors)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Types of all floating-point tensors."""
        return {tensor.dtype for tensor in self._tensors.values() if tensor.is_floating_point()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: No file holds it.
        """
        if name not in self._tensors:
            raise InputError(f"{self.folder} has no tensor {name}: the weights are incomplete or of another model.")
        return self._tensors[name]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Map a file of `torch.save` into memory and return its tensors by name.

    Raises:
        InputError: The file is damaged, or holds anything but a dictionary of tensors.
    """
    try:
        # Files of PyTorch before 1.6 are no archives and can't be mapped.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged, or not a file of tensors alone: {str(error).splitlines()[0]}. Fetch it again."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} must hold a dictionary of tensors, it holds something else.")
    return content
