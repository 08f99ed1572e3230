"""95 % intervals: Wilson's for proportions, the bootstrap over samples for everything else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PERCENTILES = (2.5, 97.5)
_BLOCK = 4_000_000
"""Counts that are turned into floating point at once."""


@dataclass(frozen=True)
class Resamples:
    """How often every sample is drawn in every bootstrap resample, unsigned [resamples, samples].

    One object serves all metrics and controls, so that differences between them are paired.
    """

    counts: NDArray[np.uint16]

    @classmethod
    def draw(cls, size: int, resamples: int, seed: int) -> "Resamples":
        """Draw `resamples` times `size` of `size` samples, with replacement."""
        generator = np.random.default_rng(seed)
        # Two bytes each: a benchmark of 200,000 questions times 1,000 resamples must fit into memory.
        counts = np.empty((resamples, size), dtype=np.uint16)
        for row in counts:
            row[:] = np.bincount(generator.integers(0, size, size), minlength=size)
        return cls(counts)

    def sums(self, parts: Floats) -> Floats:
        """Return what the samples of every resample add up to, float64 [resamples, k], for parts [samples, k]."""
        rows = max(1, _BLOCK // max(1, len(parts)))
        blocks = [self.counts[start : start + rows] @ parts for start in range(0, len(self.counts), rows)]
        return np.concatenate(blocks)


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the bootstrap's 95 % percentile interval."""
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion, within 0..1; all of it where there is no sample.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    interval = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)
