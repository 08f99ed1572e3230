"""What is made of captions where a dataset brings no questions of its own: which of four captions describes a picture."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.asked_questions import bare
from components.download import layout
from components.download.dataset import question_row
from components.download.multiple_choice import AnswerForm, MultipleChoice, ask, balanced_letters
from components.errors import InputError

QUESTION = "Which caption describes the picture?"
OPTIONS = 4


@dataclass(frozen=True)
class Captioned:
    """A usable captioning entry: place in its list, id, the picture's name among the pictures, human prompt, caption."""

    row: int
    identifier: str
    image: str
    prompt: str
    caption: str


def caption_questions(references: Mapping[str, Sequence[str]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield a question for every picture: which of four captions is its first one?

    Args:
        references: Picture to its captions.
        seed: Of wrong options and letters.
    """
    rng = random.Random(f"{seed}/questions")
    captions = Captions(text for texts in references.values() for text in texts)
    letters = balanced_letters(len(references), OPTIONS, rng)
    for number, ((image, texts), letter) in enumerate(zip(references.items(), letters, strict=True)):
        asked = captions.ask(texts[0], set(texts), letter, rng)
        yield question_row(f"question-{number:08d}", image, asked, "caption")


def derived_conversations(training: Sequence[Captioned], seed: int, form: AnswerForm) -> Iterator[layout.Entry]:
    """Yield the caption conversation of every entry, followed by a multiple-choice question about its caption."""
    rng = random.Random(f"{seed}/sft")
    captions = Captions(item.caption for item in training)
    true: dict[str, set[str]] = {}
    for item in training:
        true.setdefault(item.image, set()).add(item.caption)
    for item, letter in zip(training, balanced_letters(len(training), OPTIONS, rng), strict=True):
        asked = captions.ask(item.caption, true[item.image], letter, rng)
        yield layout.entry(item.identifier, item.image, [(item.prompt, item.caption), asked.turn(form)])


class Captions:
    """Captions that wrong options are drawn from; of those that say the same but for case, blanks and punctuation, one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: dict[str, str] = {}
        for text in sorted(set(texts)):
            self._texts.setdefault(bare(text), text)
        self._choices = list(self._texts.values())

    def enough_for(self, true: int) -> bool:
        """Tell whether there are options for a picture that so many captions are true of."""
        return len(self._texts) >= OPTIONS - 1 + true

    def ask(self, right: str, true: set[str], letter: str, rng: random.Random) -> MultipleChoice:
        """Ask for `right` among captions that are not `true` of the picture."""
        wrong: set[str] = set()
        true = {self._texts.get(bare(text), text) for text in true}
        if not self.enough_for(len(true)):
            raise InputError(
                f"Only {len(self._texts)} different captions: too few for questions with {OPTIONS} options. Give more data, or "
                f"{layout.CAPTIONING} and {layout.MULTIPLE_CHOICE} of your own."
            )
        while len(wrong) < OPTIONS - 1:
            wrong |= {rng.choice(self._choices)} - true
        return ask(QUESTION, right, sorted(wrong), letter, rng)
