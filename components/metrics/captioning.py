"""Captioning metrics: pycocoevalcap's scorers, with what the bootstrap needs to resample them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np

from components.metrics.captions import BLEU, CIDER, METEOR, ORDERS, ROUGE_L, ngram_counts
from components.metrics.meteor import Meteor
from components.metrics.metric import Row
from components.metrics.statistic import Statistic


class CaptionScorer:
    """Scores predictions against one set of references.

    Everything is tokenised already (`tokenization.tokenise`). CIDEr's document frequencies come from these references
    and stay fixed under resampling.

    Args:
        references: Captions of every sample.
        metrics: Names of the metrics; see `components.tasks.captioning`.
        java: Path of a Java binary; needed for METEOR.
    """

    def __init__(self, references: Sequence[Sequence[str]], metrics: Sequence[str], java: str | None) -> None:
        self._references = [list(captions) for captions in references]
        self._metrics = list(metrics)
        self._resources = ExitStack()
        self._meteor = self._resources.enter_context(Meteor(java)) if "meteor" in metrics and java is not None else None

    def __enter__(self) -> Self:
        """Return the scorer; METEOR's program ends with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """End METEOR's program."""
        self._resources.close()

    def score(self, predictions: Sequence[str]) -> dict[str, Statistic]:
        """Return metric to statistic; METEOR is left out where no Java runs."""
        found: dict[str, Statistic] = {}
        if "cider" in self._metrics:
            found["cider"] = Statistic.of(CIDER, [CIDER.per_sample(value) for value in self._cider(predictions)])
        orders = [metric for metric in BLEU if metric.name in self._metrics]
        if orders:
            # Every order is made of the same counts.
            counts = self._each(ngram_counts, predictions)
            found.update({metric.name: Statistic.of(metric, counts) for metric in orders})
        if "rouge_l" in self._metrics:
            found["rouge_l"] = Statistic.of(ROUGE_L, self._each(ROUGE_L.per_sample, predictions))
        if self._meteor is not None:
            found["meteor"] = Statistic.of(METEOR, self._meteor.counts(predictions, self._references))
        return {name: found[name] for name in self._metrics if name in found}

    def _each(self, per_sample: Callable[[str, Sequence[str]], Row], predictions: Sequence[str]) -> list[Row]:
        return [per_sample(text, captions) for text, captions in zip(predictions, self._references, strict=True)]

    def _cider(self, predictions: Sequence[str]) -> list[float]:
        from pycocoevalcap.cider.cider import Cider

        texts = {row: [text] for row, text in enumerate(predictions)}
        return list(Cider().compute_score(dict(enumerate(self._references)), texts)[1])


def best_constant_caption(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[int, float]:
    """Find the one caption that scores best when it is given for every picture.

    The choice looks at the very references that it is scored on: no caption chosen without them could do better, so
    that this control is as strong as it can be.

    Args:
        candidates: Tokenised captions, at least one.
        references: Tokenised captions of every sample.

    Returns:
        Index of the candidate with the highest CIDEr (the first of equals), and that CIDEr in pycocoevalcap's scale.
    """
    corpus = _CiderCorpus(references)
    values = [corpus.constant(candidate) for candidate in candidates]
    best = int(np.argmax(values))
    return best, values[best]


def candidate_captions(captions: Sequence[str], limit: int, seed: int) -> list[str]:
    """Return at most `limit` distinct captions, a seeded choice whatever their order."""
    distinct = sorted(set(captions))
    return distinct if len(distinct) <= limit else random.Random(seed).sample(distinct, limit)


class _CiderCorpus:
    """CIDEr of one caption against all references at once, equal to pycocoevalcap's up to rounding.

    An inverted index from n-gram to the references that hold it makes a candidate cost milliseconds, not seconds.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._log_size = float(np.log(float(len(references))))
        counted = [[_ngrams(caption) for caption in captions] for captions in references]
        frequency = Counter(ngram for captions in counted for ngram in {key for caption in captions for key in caption})
        # References share few n-grams' counts: the logarithm of each count is taken once.
        logs = {count: self._log_size - float(np.log(max(1.0, count))) for count in set(frequency.values())}
        self._rareness = {ngram: logs[count] for ngram, count in frequency.items()}
        rows = [caption for captions in counted for caption in captions]
        postings: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._norms = np.zeros((ORDERS, len(rows)))
        self._lengths = np.zeros(len(rows))
        for row, caption in enumerate(rows):
            self._lengths[row] = _length(caption)
            for ngram, weight in self._weights(caption):
                self._norms[len(ngram) - 1, row] += weight**2
                places, weights = postings.setdefault(ngram, ([], []))
                places.append(row)
                weights.append(weight)
        self._norms = np.sqrt(self._norms)
        self._postings = {ngram: (np.array(places), np.array(weights)) for ngram, (places, weights) in postings.items()}
        # The mean over samples of the mean over a sample's references.
        self._share = np.concatenate([np.full(len(captions), 1 / len(captions)) for captions in counted]) / len(counted)

    def constant(self, candidate: str) -> float:
        """Return the CIDEr of giving the candidate for every sample."""
        counts = _ngrams(candidate)
        products = np.zeros_like(self._norms)
        norms = np.zeros(ORDERS)
        for ngram, weight in self._weights(counts):
            norms[len(ngram) - 1] += weight**2
            if ngram in self._postings:
                places, weights = self._postings[ngram]
                products[len(ngram) - 1, places] += np.minimum(weight, weights) * weights
        scale = np.sqrt(norms)[:, None] * self._norms
        # As in the scorer: where a norm is zero the (zero) product stays as it is.
        similarity = np.divide(products, scale, out=products, where=scale != 0)
        penalty = np.exp(-((_length(counts) - self._lengths) ** 2) / (2 * 6.0**2))
        return float(10.0 * ((similarity.mean(axis=0) * penalty) @ self._share))

    def _weights(self, counts: Mapping[tuple[str, ...], int]) -> Iterator[tuple[tuple[str, ...], float]]:
        for ngram, count in counts.items():
            yield ngram, count * self._rareness.get(ngram, self._log_size)


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1)
    )


def _length(counts: Mapping[tuple[str, ...], int]) -> int:
    """Return the length that the scorer's penalty compares: the number of bigrams."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)
