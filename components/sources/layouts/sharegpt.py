"""ShareGPT: turns with `from` and `value` like LLaVA's, but any names of speakers, and the column `conversation` too."""

from components.sources.layouts.layout import Cells, image_column, is_list_of
from components.sources.layouts.llava import turns_sample
from components.sources.sample import Sample

_COLUMNS = ("conversations", "conversation")


class ShareGpt:
    """Markers `<image>` in the texts say where the pictures stand."""

    name = "sharegpt"
    about = "conversations: [{from: user | assistant | ..., value}], images"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise turns with `from` and `value`."""
        column = _turns_column(row)
        return tuple(name for name in (image_column(row), column) if name) if column else None

    def samples(self, row: Cells) -> list[Sample]:
        """Return the conversation."""
        return [turns_sample(row, next((name for name in _COLUMNS if row.get(name)), _COLUMNS[0]))]


def _turns_column(row: Cells) -> str | None:
    return next((name for name in _COLUMNS if is_list_of(row.get(name), "from", "value")), None)
