"""Questions: a picture, a question and its answer."""

from typing import Any

from components.errors import InputError
from components.sources.layouts.captions import texts_of
from components.sources.layouts.layout import Cells, image_column, text_of
from components.sources.sample import Sample, make_sample, pictures_of

_ANSWERS = ("answer", "answers")


class Questions:
    """Of several answers the first is learnt."""

    name = "questions"
    about = "image, question, answer | answers"

    def columns(self, row: Cells) -> tuple[str, ...] | None:
        """Recognise a question beside an answer."""
        answer = _answer_column(row)
        if "question" not in row or answer is None:
            return None
        return tuple(name for name in (image_column(row), "question", answer) if name)

    def samples(self, row: Cells) -> list[Sample]:
        """Return question and answer."""
        images, column = image_column(row), _answer_column(row)
        value: Any = row[column] if column else None
        answers = texts_of(value) if not isinstance(value, int | float) else [str(value)]
        if not answers:
            raise InputError("the question has no answer")
        question = text_of(row.get("question"), "question")
        return [make_sample(pictures_of(row[images]) if images else [], [(question, answers[0])])]


def _answer_column(row: Cells) -> str | None:
    return next((name for name in _ANSWERS if name in row), None)
