"""Metrics of answers that can be right in part."""

from collections.abc import Sequence

from components.metrics.metric import Metric, Row

_ENOUGH = 3
_LEAST_SIMILARITY = 0.5


def soft(matches: int, people: int) -> Row:
    """Return the accuracy of an answer that `matches` of `people` gave, averaged over leaving out each of them.

    Source: https://visualqa.org/evaluation.html: min(number of people who gave it / 3, 1), over the others each time.
    """
    if people == 1:  # nobody is left to compare with
        return float(matches), 1.0
    among_others = matches * min((matches - 1) / _ENOUGH, 1.0) + (people - matches) * min(matches / _ENOUGH, 1.0)
    return among_others / people, 1.0


def similar(answer: str, accepted: Sequence[str]) -> Row:
    """Return the largest similarity to an accepted answer, 1 - edits / length of the longer one; 0 where it is below 0.5.

    Edits are counted without regard to case and number of blanks; lengths are those of the texts as they are, in upper case.
    One half itself counts, as in the challenge's program, not in its paper.

    Source: A. F. Biten et al., "Scene Text Visual Question Answering", 2019; the challenge's `infographicsvqa_eval.py`.
    """
    best = max(_similarity(answer, text) for text in accepted)
    return (best if best >= _LEAST_SIMILARITY else 0.0), 1.0


def edits(first: str, second: str) -> int:
    """Return Levenshtein's distance: the least number of characters to insert, delete or replace."""
    row = list(range(len(second) + 1))
    for number, character in enumerate(first, start=1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (character != other)),
            )
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(first: str, second: str) -> float:
    longer = max(len(first.upper()), len(second.upper()))
    if not longer:
        return 1.0
    said, wanted = _plain(first), _plain(second)
    # As many characters differ at least: an answer of a page is not compared for minutes.
    least = abs(len(said) - len(wanted))
    return 0.0 if 1 - least / longer < _LEAST_SIMILARITY else 1 - edits(said, wanted) / longer


VQA_ACCURACY = Metric(
    name="vqa_accuracy",
    label="VQA accuracy",
    per_sample=soft,
    unit="per cent, soft accuracy",
    full_scale=100.0,
    form="mean",
)

ANLS = Metric(
    name="anls",
    label="ANLS",
    version=2,
    per_sample=similar,
    unit="per cent, normalised Levenshtein similarity",
    full_scale=100.0,
    form="mean",
)
