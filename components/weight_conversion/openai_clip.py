"""OpenAI's own CLIP files: TorchScript archives (`ViT-L-14-336px.pt`), or state dicts saved from them.

A TorchScript archive is a program. It is not loaded as one: its pickled tree of modules is read by an unpickler that
knows tensors, numbers and containers, and refuses everything else.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.weight_conversion.torch_folder import load_state_dict

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}


def find_openai_file(folder: Path) -> Path | None:
    """Return the one `*.pt` file of a folder, None when there is none.

    Raises:
        InputError: There are several.
    """
    files = sorted(folder.glob("*.pt"))
    if len(files) > 1:
        raise InputError(f"{folder} holds several *.pt files ({', '.join(path.name for path in files)}): leave one.")
    return files[0] if files else None


def open_openai_file(path: Path) -> "OpenAiFile":
    """Open a CLIP file of OpenAI.

    Raises:
        InputError: It is damaged, or no such file.
    """
    if not zipfile.is_zipfile(path):
        return OpenAiFile(path, dict(load_state_dict(path)))
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith("/constants.pkl")]
    if not members:
        return OpenAiFile(path, dict(load_state_dict(path)))
    return OpenAiFile(path, _read_archive(path, members[0].removesuffix("constants.pkl")))


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor of an archive that is not read yet."""

    record: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class OpenAiFile:
    """Tensors of one file.

    Args:
        path: The file.
        tensors: Name to tensor, or to where it is stored.
    """

    def __init__(self, path: Path, tensors: dict[str, Tensor | _StoredTensor]) -> None:
        self.path = path
        self._tensors = tensors

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._tensors)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Types of all floating-point tensors."""
        return {tensor.dtype for tensor in self._tensors.values() if tensor.dtype.is_floating_point}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: The file does not hold it, or is damaged there.
        """
        if name not in self._tensors:
            raise InputError(f"{self.path} has no tensor {name}: it is not one of OpenAI's CLIP models.")
        stored = self._tensors[name]
        if isinstance(stored, Tensor):
            return stored
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = bytearray(archive.read(stored.record))
            flat = torch.frombuffer(content, dtype=stored.dtype)
            return torch.as_strided(flat, stored.shape, stored.stride, stored.offset)
        except (zipfile.BadZipFile, KeyError, RuntimeError, ValueError, OSError) as error:
            raise InputError(f"{self.path} is damaged at the tensor {name}: {error}. Fetch it again.") from error


class _Attributes:
    """A module of the archive: whatever attributes it has."""


class _TreeUnpickler(pickle.Unpickler):
    """Reads the tree of modules; tensors become `_StoredTensor`.

    Args:
        file: The pickle.
        root: Folder of the archive's records.
    """

    def __init__(self, file: Any, root: str) -> None:
        super().__init__(file)
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        """Answer for what a CLIP archive needs, refuse the rest."""
        if module.startswith("__torch__"):
            return _Attributes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _tag: value
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, identifier: Any) -> tuple[str, torch.dtype]:
        """Return record and type of a tensor's storage."""
        kind, dtype, record, _device, _size = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {kind!r} data")
        return f"{self.root}data/{record}", dtype

    @staticmethod
    def _tensor(
        storage: tuple[str, torch.dtype], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> _StoredTensor:
        record, dtype = storage
        return _StoredTensor(record, dtype, offset, tuple(shape), tuple(stride))


def _read_archive(path: Path, root: str) -> dict[str, Tensor | _StoredTensor]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{root}data.pkl") as file:
            tree = _TreeUnpickler(file, root).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError) as error:
        raise InputError(f"{path} can't be read as one of OpenAI's CLIP archives: {error}.") from error
    if not isinstance(tree, _Attributes):
        raise InputError(f"{path} is a TorchScript archive, but not of a model.")
    return dict(_walk(tree, ""))


def _walk(module: _Attributes, prefix: str) -> Iterator[tuple[str, _StoredTensor]]:
    for name, value in vars(module).items():
        if isinstance(value, _StoredTensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Attributes):
            yield from _walk(value, f"{prefix}{name}.")
