"""The layouts, a row each; the first that recognises a row is taken."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.errors import InputError
from components.sources.layouts.captions import Captions
from components.sources.layouts.cauldron import Cauldron
from components.sources.layouts.layout import Layout
from components.sources.layouts.llava import Llava
from components.sources.layouts.messages import Messages
from components.sources.layouts.onevision import OneVision
from components.sources.layouts.questions import Questions
from components.sources.layouts.shards import Shards
from components.sources.layouts.sharegpt import ShareGpt

LAYOUTS: tuple[Layout, ...] = (
    Shards(),
    Cauldron(),
    OneVision(),
    Llava(),
    ShareGpt(),
    Messages(),
    Questions(),
    Captions(),
)


def recognise(rows: Sequence[Mapping[str, Any]], shown: str) -> tuple[Layout, tuple[str, ...]]:
    """Recognise the layout of a dataset by its first rows.

    Args:
        rows: The first rows, columns renamed as the settings say.
        shown: The dataset, for errors.

    Returns:
        The layout, and the columns that it reads.

    Raises:
        InputError: It is none of those that are known.
    """
    filled: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if filled.get(name) in (None, "", []):
                filled[name] = value
    for layout in LAYOUTS:
        columns = layout.columns(filled)
        if columns is not None:
            return layout, columns
    known = "; ".join(f"{layout.name} ({layout.about})" for layout in LAYOUTS)
    raise InputError(
        f"{shown} has the columns {', '.join(filled) or '(none)'}, which no layout knows: {known}. Say in `mapping` which "
        "columns are meant, as {image: photo, caption: alt}; a.b names b within a."
    )


def layout_of(name: str) -> Layout:
    """Return a layout by its name.

    Raises:
        InputError: There is none of that name.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise InputError(f"There is no layout {name!r}; there are {', '.join(layout.name for layout in LAYOUTS)}.")
