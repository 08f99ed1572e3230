"""Where tensors come from: any published file layout, read one tensor at a time."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from components.errors import InputError
from components.weight_conversion.openai_clip import find_openai_file, open_openai_file
from components.weight_conversion.safetensors_folder import SAFETENSORS, SafetensorsFolder
from components.weight_conversion.torch_folder import TORCH_FILES, TorchFolder


class TensorSource(Protocol):
    """Named tensors of a model."""

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Types of all floating-point tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: There is no such tensor, or its file is damaged.
        """


def open_source(folder: Path) -> TensorSource:
    """Open the weights in a folder: safetensors, else PyTorch's own files, else OpenAI's CLIP file.

    Raises:
        InputError: There are none, or a file is missing, truncated or of another kind; it is named.
    """
    if SAFETENSORS.present(folder):
        return SafetensorsFolder(folder)
    if TORCH_FILES.present(folder):
        return TorchFolder(folder)
    path = find_openai_file(folder)
    if path is not None:
        return open_openai_file(path)
    raise InputError(
        f"{folder} holds no weights: expected {SAFETENSORS.single} or {SAFETENSORS.index} with the files that it names, "
        f"{TORCH_FILES.single} or {TORCH_FILES.index}, or one of OpenAI's CLIP files (*.pt)."
    )
