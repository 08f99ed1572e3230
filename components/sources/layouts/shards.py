"""WebDataset shards: `jpg` (`png`, `webp`) beside `txt` or `json`, as img2dataset writes them and as this project does."""

from typing import Any

from components.errors import InputError
from components.sources.layouts.captions import caption_samples, texts_of
from components.sources.layouts.layout import Cells
from components.sources.layouts.llava import turns_sample
from components.sources.sample import PictureRef, Sample, pictures_of
from components.sources.tables.tar_shards import KEY

_PICTURES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "text", "caption")
_JSON = "json"


class Shards:
    """The caption is the text, else `caption` of the JSON; JSON that is a conversation is one."""

    name = "shards"
    about = "jpg | png | webp with txt or json, as img2dataset's"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise a row of a tar shard with a text."""
        if KEY not in row or not any(name in row for name in (*_TEXTS, _JSON)):
            return None
        return tuple(name for name in row if name in (*_TEXTS, _JSON, KEY) or _is_picture(name))

    def samples(self, row: Cells) -> list[Sample]:
        """Return the captions, or the conversation."""
        names = sorted(filter(_is_picture, row), key=_order)
        pictures: list[PictureRef] = [ref for name in names for ref in pictures_of(row[name])]
        described: Any = row.get(_JSON)
        if isinstance(described, dict) and "conversations" in described:
            described = described["conversations"]
        if isinstance(described, list):
            return [turns_sample({"conversations": described, "images": pictures}, "conversations")]
        texts = [text for name in _TEXTS if name in row for text in texts_of(row[name])][:1]
        if not texts and isinstance(described, dict):
            texts = texts_of(described.get("caption"))
        if not texts:
            raise InputError(f"{row.get(KEY)} has neither a text nor JSON with a caption")
        return caption_samples(pictures, texts)


def _is_picture(name: str) -> bool:
    """Tell whether a field holds a picture; of several, the fields are `0.jpg`, `1.png` and so on."""
    number, dot, extension = name.rpartition(".")
    return extension in _PICTURES and (not dot or number.isdigit())


def _order(name: str) -> tuple[int, str]:
    number = name.partition(".")[0]
    return (int(number) if number.isdigit() else 0, name)
