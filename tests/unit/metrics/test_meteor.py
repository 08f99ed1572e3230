from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.meteor_corpora import SHAPES, BothMeteors, Corpus, both_meteors, random_corpus, random_paraphrases
from tests.support.small_meteor import small_meteor

CORPORA = 150


@pytest.fixture(scope="module")
def both(java: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothMeteors]:
    with small_meteor(tmp_path_factory.mktemp("meteor"), random_paraphrases(1000)), both_meteors(java) as programs:
        yield programs


@pytest.mark.parametrize("shape", SHAPES)
def test_corpora_and_segments_equal_the_programs_own_evaluation(both: BothMeteors, shape: str) -> None:
    for seed in range(SHAPES.index(shape), CORPORA, len(SHAPES)):
        corpus = random_corpus(seed)
        assert corpus.shape == shape
        assert both.largest_error(corpus) < 1e-9, f"seed {seed}"


words = st.lists(st.sampled_from(["a", "cat", "cats", "dog", "sits", "sitting", "big", "large"]), max_size=5)
captions = words.map(" ".join)


@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=4))
@settings(max_examples=100)
def test_small_corpora_equal_the_programs_own_evaluation(
    both: BothMeteors, samples: list[tuple[str, list[str]]]
) -> None:
    corpus = Corpus("any", [text for text, _ in samples], [references for _, references in samples])
    assert both.largest_error(corpus) < 1e-9


def test_separators_within_captions_are_words_of_nobody(both: BothMeteors) -> None:
    with_separator = Corpus("separators", ["a red ||| square"], [["a red | square ||| here"]])
    without = Corpus("plain", ["a red square"], [["a red | square here"]])
    assert both.ours(with_separator).value() == both.ours(without).value()


def test_the_corpora_have_matches_of_every_kind(both: BothMeteors) -> None:
    counts = sum(both.ours(random_corpus(seed)).parts.sum(axis=0) for seed in range(0, CORPORA, len(SHAPES)))
    exact, stems, synonyms, paraphrases = counts[4:20].reshape(4, 4)
    assert stems[:2].all()  # no function word has another's stem
    for matches in (exact, synonyms, paraphrases):
        assert matches.all()
