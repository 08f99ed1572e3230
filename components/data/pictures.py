"""The pictures of a raw dataset folder, by name."""

import threading
from pathlib import Path
from typing import Self

from PIL import Image

from components.data.decode import open_picture
from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, ImageReader
from components.errors import InputError


class Pictures:
    """Reads pictures of a raw dataset; several threads may do so.

    Args:
        raw: Raw dataset folder.

    Attributes:
        folder: The same.

    Raises:
        InputError: It has no pictures, or they can't be opened.
    """

    def __init__(self, raw: Path) -> None:
        self.folder = raw
        self._index = ImageIndex(raw)
        if not self._index.sources:
            raise InputError(f"{raw} has neither {DEFAULT_ZIP} nor a folder {DEFAULT_FOLDER}/.")
        self._reader = ImageReader(self._index.sources)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Return the reader; the archives are closed with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the archives."""
        self._reader.__exit__(*error)

    def open(self, name: str) -> Image.Image:
        """Return a picture as `open_picture` decodes it.

        Raises:
            InputError: The picture is missing, lies outside the dataset, or can't be decoded.
        """
        content = self.read(name)
        try:
            return open_picture(content)
        except InputError as error:
            raise InputError(f"The picture {name!r} in {self.folder} can't be read: {error}") from error

    def read(self, name: str) -> bytes:
        """Return a picture's file as it is.

        Raises:
            InputError: The picture is missing, or lies outside the dataset.
        """
        try:
            with self._lock:
                place = self._index.find(name)
                content = None if place is None else self._reader.read(place)
        except InputError as error:
            raise InputError(f"The picture {name!r} in {self.folder} can't be read: {error}") from error
        if content is None:
            raise InputError(f"There is no picture {name!r} in {self.folder}, or it lies outside.")
        return content
