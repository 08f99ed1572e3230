"""The Cauldron and FineVision: `images`, and `texts` of what the user and the assistant say."""

from components.sources.layouts.layout import Cells, as_list, is_list_of, text_of
from components.sources.sample import Sample, make_sample, pictures_of

_IMAGES, _TEXTS = "images", "texts"


class Cauldron:
    """The pictures stand before the first question, unless markers `<image>` say otherwise."""

    name = "cauldron"
    about = "images, texts: [{user, assistant}], as the_cauldron and FineVision"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise `texts` with user and assistant."""
        if not is_list_of(row.get(_TEXTS), "user", "assistant"):
            return None
        return (_IMAGES, _TEXTS) if _IMAGES in row else (_TEXTS,)

    def samples(self, row: Cells) -> list[Sample]:
        """Return the conversation."""
        pairs = []
        for number, text in enumerate(as_list(row.get(_TEXTS), _TEXTS), start=1):
            fields = text if isinstance(text, dict) else {}
            what = f"text {number} of {_TEXTS}"
            pairs.append((text_of(fields.get("user"), what), text_of(fields.get("assistant"), what)))
        return [make_sample(pictures_of(row.get(_IMAGES)), pairs)]
