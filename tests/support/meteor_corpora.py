"""Random corpora for METEOR, and what its own program makes of them."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from components.metrics.captions import METEOR
from components.metrics.intervals import Resamples
from components.metrics.meteor import Meteor
from components.metrics.statistic import Statistic

# Stems, synonyms, paraphrases and function words all find partners among these.
_POOL = (
    "a the of is are on in with and there to red blue big large small little tiny cat cats dog dogs man person people "
    "woman sit sits sitting run runs running walk walking picture photo image car automobile bike bicycle quickly fast "
    "next left right circle square sofa couch near beside close in front couple of three 3 it's well-known , ."
)
WORDS = _POOL.split()
FOREIGN = [f"zq{number}x" for number in range(20)]
SHAPES = ("mixed", "all matched", "none matched", "with empty captions", "all empty")
MOST_CAPTIONS = 50
MOST_REFERENCES = 5


@dataclass(frozen=True)
class Corpus:
    """Tokenised predictions, and one to five references for each."""

    shape: str
    predictions: list[str]
    references: list[list[str]]


def random_corpus(seed: int) -> Corpus:
    """Draw a corpus of 1 to 50 captions; the seeds take turns in the shapes."""
    generator = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]

    def sentence(words: Sequence[str] = WORDS) -> str:
        return " ".join(generator.choices(words, k=generator.randint(1, 12)))

    size = generator.randint(1, MOST_CAPTIONS)
    references = [[sentence() for _ in range(generator.randint(1, MOST_REFERENCES))] for _ in range(size)]
    predictions = []
    for captions in references:
        prediction = generator.choice(captions)
        if shape == "none matched":
            prediction = sentence(FOREIGN)
        elif shape == "all empty":
            prediction = ""
        elif shape != "all matched":
            prediction = generator.choice([prediction, _changed(prediction, generator), sentence()])
            if shape == "with empty captions" and generator.random() < 0.3:
                prediction = ""
        predictions.append(prediction)
    if shape == "with empty captions":
        references = [["" if generator.random() < 0.2 else text for text in captions] for captions in references]
    return Corpus(shape, predictions, references)


def random_paraphrases(count: int) -> list[tuple[str, str]]:
    """Draw pairs of phrases of the corpora's words: more of them meet in the corpora than of English ones."""
    generator = random.Random(0)

    def phrase() -> str:
        return " ".join(generator.choices(WORDS, k=generator.choice((1, 1, 2, 3))))

    return [(phrase(), phrase()) for _ in range(count)]


class BothMeteors:
    """Our METEOR, and pycocoevalcap's wrapper of the same program with its own SCORE and EVAL."""

    def __init__(self, java: str, ours: Meteor) -> None:
        from pycocoevalcap.meteor.meteor import Meteor as Wrapper

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(Path(java).parent), prepend=":")
            self._theirs = Wrapper()
        self._program = ours

    def ours(self, corpus: Corpus) -> Statistic:
        """Return our statistic of a corpus."""
        return Statistic.of(METEOR, self._program.counts(corpus.predictions, corpus.references))

    def largest_error(self, corpus: Corpus) -> float:
        """Return the largest difference over the corpus and its segments."""
        size = len(corpus.predictions)
        value, values = self._theirs.compute_score(
            dict(enumerate(corpus.references)), {row: [text] for row, text in enumerate(corpus.predictions)}
        )
        statistic = self.ours(corpus)
        segments = statistic.resampled(Resamples(np.eye(size, dtype=np.uint16)))
        return float(np.abs(np.array([statistic.value() - value, *(segments - values)])).max())


@contextmanager
def both_meteors(java: str) -> Iterator[BothMeteors]:
    """Start both programs, side by side."""
    with Meteor(java) as ours:
        yield BothMeteors(java, ours)


def _changed(text: str, generator: random.Random) -> str:
    """Swap, drop or replace words: several chunks, partial matches."""
    words = text.split()
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(len(words))
        words[place:] = generator.choice(
            [words[place:][::-1], [generator.choice(WORDS), *words[place + 1 :]], words[place + 1 :] or words]
        )
    return " ".join(words)
