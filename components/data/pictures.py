"""The pictures of a raw dataset folder, by name."""

from pathlib import Path
from typing import Self

from PIL import Image

from components.data.decode import open_picture
from components.data.image_roots import DEFAULT_FOLDER, DEFAULT_ZIP, ImageIndex, ImageReader
from components.errors import InputError


class Pictures:
    """Reads pictures of a raw dataset.

    Args:
        raw: Raw dataset folder.

    Raises:
        InputError: It has no pictures, or they can't be opened.
    """

    def __init__(self, raw: Path) -> None:
        self._raw = raw
        self._index = ImageIndex(raw)
        if not self._index.sources:
            raise InputError(f"{raw} has neither {DEFAULT_ZIP} nor a folder {DEFAULT_FOLDER}/.")
        self._reader = ImageReader(self._index.sources)

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
        place = self._index.find(name)
        if place is None:
            raise InputError(f"There is no picture {name!r} in {self._raw}, or it lies outside.")
        try:
            return open_picture(self._reader.read(place))
        except InputError as error:
            raise InputError(f"The picture {name!r} in {self._raw} can't be read: {error}") from error
