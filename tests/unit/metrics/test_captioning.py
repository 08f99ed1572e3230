import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from components.metrics.captioning import CaptionScorer, best_constant_caption, candidate_captions
from components.metrics.intervals import Resamples

METRICS = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")
WORDS = ["a", "red", "blue", "circle", "square", "left", "of", "the", "small", "is"]


def corpus(size: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Tokenised predictions, an empty and a very short one among them, and one to four references each."""
    generator = random.Random(seed)

    def sentence() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(1, 9)))

    predictions = [sentence() for _ in range(size)]
    predictions[1], predictions[2] = "", "red"
    return predictions, [[sentence() for _ in range(generator.randint(1, 4))] for _ in range(size)]


def as_pycocoevalcap(
    predictions: list[str], references: list[list[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(references)), {row: [text] for row, text in enumerate(predictions)}


def test_caption_metrics_equal_pycocoevalcap() -> None:
    predictions, references = corpus(40, seed=1)
    pair = as_pycocoevalcap(predictions, references)
    expected = {"cider": Cider().compute_score(*pair)[0], "rouge_l": Rouge().compute_score(*pair)[0]}
    expected |= {
        f"bleu_{order}": value for order, value in enumerate(Bleu(4).compute_score(*pair, verbose=0)[0], start=1)
    }
    with CaptionScorer(references, METRICS, java=None) as scorer:
        found = scorer.score(predictions)
    assert list(found) == list(METRICS)
    for name, value in expected.items():
        assert found[name].value() == pytest.approx(value, rel=1e-9, abs=1e-12), name


@given(st.integers(0, 10_000))
def test_a_resample_scores_like_the_corpus_that_it_stands_for(seed: int) -> None:
    """BLEU of resampled counts equals pycocoevalcap's BLEU of the corpus with samples repeated and left out."""
    predictions, references = corpus(6, seed)
    with CaptionScorer(references, ["bleu_4"], java=None) as scorer:
        statistic = scorer.score(predictions)["bleu_4"]
    resamples = Resamples.draw(6, 2, seed)
    for counts, value in zip(resamples.counts, statistic.resampled(resamples), strict=True):
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        pair = as_pycocoevalcap([predictions[row] for row in rows], [references[row] for row in rows])
        assert value == pytest.approx(Bleu(4).compute_score(*pair, verbose=0)[0][3], rel=1e-6, abs=1e-9)


@given(st.integers(0, 10_000))
def test_the_best_constant_caption_is_the_best_under_pycocoevalcap(seed: int) -> None:
    candidates, references = corpus(8, seed)
    values = [Cider().compute_score(*as_pycocoevalcap([candidate] * 8, references))[0] for candidate in candidates]
    best, value = best_constant_caption(candidates, references)
    assert value == pytest.approx(max(values), rel=1e-9, abs=1e-12)
    assert values[best] == pytest.approx(max(values), rel=1e-9, abs=1e-12)


def test_candidates_do_not_depend_on_the_order_of_the_captions() -> None:
    captions = [f"caption {number % 50}" for number in range(200)]
    chosen = candidate_captions(captions, 10, seed=1)
    assert len(set(chosen)) == 10
    assert chosen == candidate_captions(captions[::-1], 10, seed=1)
    assert candidate_captions(captions, 100, seed=1) == sorted(set(captions))
