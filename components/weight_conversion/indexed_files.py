"""Weights in one file, or in several with an index of which file holds which tensor (Hugging Face's layout)."""

import json
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError


@dataclass(frozen=True)
class IndexedFiles:
    """Names of one such layout.

    Attributes:
        single: Name of the file if there is one.
        index: Name of the index if there are several.
    """

    single: str
    index: str

    def present(self, folder: Path) -> bool:
        """Tell whether a folder has weights in this layout."""
        return (folder / self.index).is_file() or (folder / self.single).is_file()

    def read_index(self, folder: Path) -> dict[str, str] | None:
        """Return tensor name to file name, None when there is one file and no index.

        Raises:
            InputError: The index is no such index, or names a file that is missing or lies elsewhere.
        """
        path = folder / self.index
        if not path.is_file():
            return None
        try:
            weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            index = {str(tensor): str(name) for tensor, name in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not an index of weight files: {error!r}. Fetch it again.") from error
        for name in sorted(set(index.values())):
            if Path(name).name != name:
                raise InputError(f"{path} names {name!r}: files must lie in the same folder.")
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing, although {self.index} names it. Fetch it again.")
        return index
