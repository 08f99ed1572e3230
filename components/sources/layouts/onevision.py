"""LLaVA-OneVision-Data: LLaVA's turns with the picture in the row, and `data_source`, the dataset that it was taken from."""

from components.sources.layouts.layout import Cells
from components.sources.layouts.llava import Llava
from components.sources.sample import Sample

_SOURCE = "data_source"


class OneVision:
    """Reads as LLaVA's."""

    name = "onevision"
    about = "id, image, conversations, data_source"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise LLaVA's turns beside `data_source`."""
        return Llava().columns(row) if _SOURCE in row else None

    def samples(self, row: Cells) -> list[Sample]:
        """Return the conversation."""
        return Llava().samples(row)
