"""METEOR of random corpora against the official program's own evaluation of the same lines.

python -m tests.benchmarks.meteor_parity --corpora 1500
"""

import argparse
import time
from collections import Counter

from components.metrics.java import find_java
from tests.support.meteor_corpora import both_meteors, random_corpus


def main() -> None:
    """Print the largest difference for every shape of corpus; fail above 1e-9."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=int, default=1500)
    count = parser.parse_args().corpora
    java = find_java()
    if java is None:
        raise SystemExit("no Java runtime was found")
    errors: dict[str, float] = {}
    corpora: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    start = time.monotonic()
    with both_meteors(java) as both:
        for seed in range(count):
            corpus = random_corpus(seed)
            errors[corpus.shape] = max(errors.get(corpus.shape, 0.0), both.largest_error(corpus))
            corpora[corpus.shape] += 1
            captions[corpus.shape] += len(corpus.predictions)
    for shape, error in errors.items():
        print(f"{shape:20} {corpora[shape]:5} corpora {captions[shape]:6} captions   largest difference {error:.1e}")
    print(f"{count} corpora in {time.monotonic() - start:.0f} s")
    if max(errors.values()) > 1e-9:
        raise SystemExit("METEOR differs from its program")


if __name__ == "__main__":
    main()
