"""LLaVA: `conversations` of turns with `from` and `value`, the speakers human and gpt, and `image`."""

from components.sources.layouts.layout import Cells, as_list, image_column, is_list_of, role_of, text_of
from components.sources.sample import Sample, make_sample, pairs_of, pictures_of

_SPEAKERS = {"system", "human", "gpt"}
_CONVERSATIONS = "conversations"


class Llava:
    """Pictures are paths, or lie in the row; a row without any is text."""

    name = "llava"
    about = "image, conversations: [{from: human | gpt, value}]"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise LLaVA's speakers."""
        turns = row.get(_CONVERSATIONS)
        if not is_list_of(turns, "from", "value"):
            return None
        if not {turn.get("from") for turn in as_list(turns, _CONVERSATIONS)} <= _SPEAKERS:
            return None
        return tuple(name for name in (image_column(row), _CONVERSATIONS) if name)

    def samples(self, row: Cells) -> list[Sample]:
        """Return the conversation."""
        return [turns_sample(row, _CONVERSATIONS)]


def turns_sample(row: Cells, column: str) -> Sample:
    """Return the sample of turns with `from` and `value`.

    Raises:
        InputError: The turns are not of this form.
    """
    turns = []
    for number, turn in enumerate(as_list(row.get(column), column), start=1):
        fields = turn if isinstance(turn, dict) else {}
        turns.append((role_of(fields.get("from")), text_of(fields.get("value"), f"turn {number} of {column}")))
    system, pairs = pairs_of(turns)
    images = image_column(row)
    return make_sample(pictures_of(row[images]) if images else [], pairs, system)
