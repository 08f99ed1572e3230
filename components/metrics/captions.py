"""Metrics of captions as COCO's evaluation has them; `captioning.py` computes them for whole corpora."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from components.metrics.metric import Metric, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDERS = 4
# pycocoevalcap's guards against empty counts in BLEU.
_SMALL = 1e-9
_TINY = 1e-15


def own_value(value: float) -> Row:
    """Return what a sample with a value of its own adds to the mean."""
    return float(value), 1.0


def longest_common(prediction: str, references: Sequence[str]) -> Row:
    """Return ROUGE-L of a tokenised caption, by pycocoevalcap."""
    from pycocoevalcap.rouge.rouge import Rouge

    return own_value(Rouge().calc_score([prediction], list(references)))


def ngram_counts(prediction: str, references: Sequence[str]) -> Row:
    """Return n-gram hits (4), n-grams (4), length and closest reference length of a tokenised caption."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

    cooked = cook_test(prediction, cook_refs(references), eff="closest")
    return tuple(map(float, (*cooked["correct"], *cooked["guess"], cooked["testlen"], cooked["reflen"])))


def bleu(order: int) -> "Callable[[NDArray[np.float64]], NDArray[np.float64]]":
    """Return BLEU of the given order as a function of summed counts; pycocoevalcap's formula."""

    def combine(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
        import numpy as np

        correct, guesses = sums[:, :ORDERS], sums[:, ORDERS : 2 * ORDERS]
        precision = np.prod((correct[:, :order] + _TINY) / (guesses[:, :order] + _SMALL), axis=1)
        ratio = (sums[:, -2] + _TINY) / (sums[:, -1] + _SMALL)
        # exp of a very negative number is 0, which is right for predictions of no length.
        brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
        return precision ** (1 / order) * brevity

    return combine


def matching_counts(counts: Sequence[float]) -> Row:
    """Return the counts that METEOR's program matched in a caption, see `meteor.py`."""
    return tuple(map(float, counts))


def meteor(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return METEOR of summed matching counts."""
    from components.metrics.meteor import meteor_metric

    return meteor_metric(sums)


CIDER = Metric(name="cider", label="CIDEr", per_sample=own_value, unit="points", form="mean")
"""A sample's own value depends on the document frequencies of all references, which stay fixed under resampling."""

BLEU = tuple(
    Metric(
        name=f"bleu_{order}",
        label=f"BLEU-{order}",
        per_sample=ngram_counts,
        combine=bleu(order),
        unit="points",
        form="counts",
    )
    for order in range(1, ORDERS + 1)
)
ROUGE_L = Metric(name="rouge_l", label="ROUGE-L", per_sample=longest_common, unit="points", form="mean")
METEOR = Metric(
    name="meteor",
    label="METEOR",
    per_sample=matching_counts,
    combine=meteor,
    version=2,
    unit="points",
    form="counts",
)
