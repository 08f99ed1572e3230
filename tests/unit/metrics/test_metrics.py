"""Every registered metric: what is published, what is stored and a second, slow implementation agree."""

import math
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import StageError
from components.evaluate.config import EvaluateConfig
from components.evaluate.paired import paired_tests
from components.evaluate.sample_scores import SampleScore, SampleScores, read_sample_scores, write_sample_scores
from components.evaluate.scoring import publish
from components.metrics.captioning import CaptionScorer
from components.metrics.intervals import Resamples, wilson_interval
from components.metrics.macro import MACRO_ACCURACY
from components.metrics.metric import Metric
from components.metrics.mme import MME_TOTAL, PART_OF, PARTS
from components.metrics.partly_right import ANLS, edits
from components.metrics.registry import OWN_METRICS, find_metric
from components.metrics.right_or_wrong import ACCURACY, GROUP_ACCURACY, RELAXED_ACCURACY
from components.metrics.statistic import Statistic
from components.metrics.yes_no import F1, PRECISION, RECALL
from components.tasks.kind import MODEL, Findings
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task, TaskPrompt

WORDS = ["a", "red", "circle", "left", "of", "the"]


@dataclass(frozen=True)
class Case:
    """How a metric is tried.

    Attributes:
        sample: Strategy of one sample, the arguments of `per_sample`.
        brute: The metric of all samples, computed slowly and otherwise; in the scorer's scale.
        statistic: Makes the statistic of the samples, where that takes more than `per_sample`.
        grouped: Whether a sample's first entry is the group that it belongs to.
    """

    sample: st.SearchStrategy[tuple[Any, ...]]
    brute: Callable[[Sequence[tuple[Any, ...]]], float]
    statistic: Callable[[Metric[...], Sequence[tuple[Any, ...]]], Statistic] | None = None
    grouped: bool = False

    def of(self, metric: Metric[...], samples: Sequence[tuple[Any, ...]]) -> Statistic:
        if self.statistic is not None:
            return self.statistic(metric, samples)
        rows = [metric.per_sample(*(sample[1:] if self.grouped else sample)) for sample in samples]
        return Statistic.of(metric, rows, [sample[0] for sample in samples] if self.grouped else None)


def per_group(samples: Sequence[tuple[Any, ...]]) -> float:
    groups = defaultdict(list)
    for group, right in samples:
        groups[group].append(right)
    return fmean(all(rights) for rights in groups.values())


def leave_one_out(samples: Sequence[tuple[Any, ...]]) -> float:
    def one(matches: int, people: int) -> float:
        answers = [True] * matches + [False] * (people - matches)
        return fmean(min(1.0, (matches - answers[row]) / 3) for row in range(people))

    return fmean(one(*sample) for sample in samples)


@lru_cache
def distance(first: str, second: str) -> int:
    """Levenshtein's distance by its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        distance(first[1:], second) + 1,
        distance(first, second[1:]) + 1,
        distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


def anls(samples: Sequence[tuple[Any, ...]]) -> float:
    def one(said: str, truth: str) -> float:
        share = distance(plain(said), plain(truth)) / max(len(said), len(truth), 1)  # lengths with all their blanks
        return 1 - share if share <= 0.5 else 0.0

    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", text.strip()).lower()

    return fmean(max(one(said, truth) for truth in accepted) for said, accepted in samples)


def of_subjects(samples: Sequence[tuple[Any, ...]]) -> float:
    marks = defaultdict(list)
    for mark, subject, _ in samples:
        marks[subject].append(mark)
    return fmean(fmean(found) for found in marks.values())


def share_of(wanted: Callable[[bool, bool], bool], among: Callable[[bool, bool], bool]) -> Callable[..., float]:
    def brute(samples: Sequence[tuple[bool, bool]]) -> float:
        chosen = [wanted(*sample) for sample in samples if among(*sample)]
        return fmean(chosen) if chosen else 0.0

    return brute


both = share_of(lambda said, true: said and true, lambda said, true: said)
found = share_of(lambda said, true: said and true, lambda said, true: true)


def harmonic(samples: Sequence[tuple[Any, ...]]) -> float:
    precision, recall = both(samples), found(samples)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_of_splits(samples: Sequence[tuple[Any, ...]]) -> float:
    """By scikit-learn, split by split."""
    from sklearn.metrics import f1_score

    splits = defaultdict(list)
    for said, true, split, _ in samples:
        splits[split].append((true, said))
    return fmean(f1_score(*zip(*pairs, strict=True), pos_label=True, zero_division=0.0) for pairs in splits.values())


def mme_pictures(metric: Metric[...], samples: Sequence[tuple[Any, ...]]) -> Statistic:
    """Two answers about each picture; a metric of a part leaves the other part's subtasks out."""
    rows, pictures = [], []
    for row, (subtask, first, second) in enumerate(samples):
        counted = (
            metric.name not in ("mme_perception", "mme_cognition") or f"mme_{PART_OF[subtask].lower()}" == metric.name
        )
        rows += [metric.per_sample(float(right), first and second, 2, subtask, counted) for right in (first, second)]
        pictures += [str(row)] * 2
    return Statistic.of(metric, rows, pictures)


def mme(parts: Sequence[str]) -> Callable[[Sequence[tuple[Any, ...]]], float]:
    """C. Fu et al., 2023: the sum over subtasks of accuracy and of accuracy+, the share of pictures with both right."""

    def brute(samples: Sequence[tuple[Any, ...]]) -> float:
        total = 0.0
        for subtask in [name for part in parts for name in PARTS[part]]:
            pairs = [(first, second) for name, first, second in samples if name == subtask]
            if pairs:
                total += fmean(answer for pair in pairs for answer in pair) + fmean(all(pair) for pair in pairs)
        return total

    return brute


def near(relative: float, zero: bool) -> tuple[str, str, bool]:
    """A number, one that is off by a share of it, and whether that counts."""
    truth = 0.0 if zero else 40.0
    said = truth * (1 + relative)
    return f" {said:g}", f"{truth:g}", relative == 0 or (not zero and abs(relative) < 0.05)


NEAR = [
    near(relative, zero)
    for relative in (-0.2, -0.04, 0.0, 0.049, 0.06)
    for zero in (False, True)
    if not zero or relative == 0
]
TEXTS = [
    ("Yes ", "yes", True),
    ("yes", "no", False),
    ("41%", "0.4", True),
    ("0.1", "0", False),
    ("4", "four", False),
    ("x", "3", False),
]


def ngrams(text: str, order: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def bleu(order: int) -> Callable[[Sequence[tuple[Any, ...]]], float]:
    """K. Papineni et al., 2002: clipped precisions of the corpus, closest reference lengths."""

    def brute(samples: Sequence[tuple[Any, ...]]) -> float:
        logs = []
        for n in range(1, order + 1):
            hits = total = 0
            for said, references in samples:
                for ngram, count in ngrams(said, n).items():
                    hits += min(count, max(ngrams(text, n)[ngram] for text in references))
                    total += count
            logs.append(math.log((hits + 1e-15) / (total + 1e-9)))
        length = sum(len(said.split()) for said, _ in samples)
        closest = sum(
            min((len(text.split()) for text in references), key=lambda size: (abs(size - len(said.split())), size))
            for said, references in samples
        )
        return math.exp(min(0.0, 1 - closest / length) + fmean(logs))

    return brute


def cider(samples: Sequence[tuple[Any, ...]]) -> float:
    """R. Vedantam et al., 2015, CIDEr-D: clipped, with a Gaussian of the difference in length."""
    frequency: Counter[tuple[str, ...]] = Counter()
    for _, references in samples:
        frequency.update({ngram for text in references for n in range(1, 5) for ngram in ngrams(text, n)})

    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        return {
            ngram: count * (math.log(len(samples)) - math.log(max(1, frequency[ngram])))
            for ngram, count in ngrams(text, n).items()
        }

    def one(said: str, reference: str) -> float:
        values = []
        for n in range(1, 5):
            first, second = vector(said, n), vector(reference, n)
            product = sum(
                min(weight, second.get(ngram, 0.0)) * second.get(ngram, 0.0) for ngram, weight in first.items()
            )
            norms = math.hypot(*first.values()) * math.hypot(*second.values())
            values.append(product / norms if norms else 0.0)
        difference = max(len(said.split()) - 1, 0) - max(len(reference.split()) - 1, 0)
        return fmean(values) * math.exp(-(difference**2) / (2 * 6**2))

    return 10 * fmean(fmean(one(said, text) for text in references) for said, references in samples)


def caption_statistic(metric: Metric[...], samples: Sequence[tuple[Any, ...]]) -> Statistic:
    with CaptionScorer([references for _, references in samples], [metric.name], java=None) as scorer:
        return scorer.score([said for said, _ in samples])[metric.name]


def rouge(samples: Sequence[tuple[Any, ...]]) -> float:
    """C.-Y. Lin, 2004: longest common subsequence, recall weighted by 1.2 squared, the best of the references."""

    def common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
        best = 0
        for chosen in range(2 ** len(first)):
            kept = [word for place, word in enumerate(first) if chosen >> place & 1]
            rest = iter(second)
            if all(word in rest for word in kept):
                best = max(best, len(kept))
        return best

    def one(said: tuple[str, ...], references: Sequence[tuple[str, ...]]) -> float:
        precision = max(common(said, text) / len(said) for text in references)
        recall = max(common(said, text) / len(text) for text in references)
        square = 1.2**2
        return (1 + square) * precision * recall / (recall + square * precision) if precision and recall else 0.0

    return fmean(one(tuple(said.split()), [tuple(text.split()) for text in references]) for said, references in samples)


def meteor(samples: Sequence[tuple[Any, ...]]) -> float:
    """M. Denkowski and A. Lavie, 2014, from the counts of the whole corpus."""
    sums = [sum(column) for column in zip(*(counts for (counts,) in samples), strict=True)]
    words, reference_words, function, reference_function, *matches = sums[:20]
    chunks, matched, reference_matched = sums[20:]

    def weighted(content: int, of_function: int) -> float:
        weights = (1.0, 0.6, 0.8, 0.6)
        return sum(
            weight * (0.75 * matches[4 * kind + content] + 0.25 * matches[4 * kind + of_function])
            for kind, weight in enumerate(weights)
        )

    precision = weighted(0, 2) / (0.75 * (words - function) + 0.25 * function)
    recall = weighted(1, 3) / (0.75 * (reference_words - reference_function) + 0.25 * reference_function)
    if not precision or not recall or not matched:
        return 0.0
    mean = 1 / (0.85 / recall + 0.15 / precision)
    return mean * (1 - 0.6 * (chunks / ((matched + reference_matched) / 2)) ** 0.2)


@st.composite
def matching(draw: st.DrawFn) -> tuple[tuple[float, ...]]:
    """Counts of a caption of which at least one word is not matched."""
    matches = [draw(st.integers(0, 3)) for _ in range(16)]
    said, reference = (sum(matches[side::2]) for side in (0, 1))
    function = [sum(matches[side::4]) for side in (2, 3)]
    more = draw(st.integers(1, 4))
    counts = [said + more, reference + more, *function, *matches, draw(st.integers(1, 5)), said, reference]
    return (tuple(map(float, counts)),)


captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
captioned = st.tuples(captions, st.lists(captions, min_size=1, max_size=3))
yes_no = st.tuples(st.booleans(), st.booleans())
mme_picture = st.tuples(st.sampled_from(["count", "OCR", "code_reasoning"]), st.booleans(), st.booleans())
short = st.text("abA ", max_size=5).map(str.strip)


def mean_of_values(samples: Sequence[tuple[Any, ...]]) -> float:
    return fmean(value for (value,) in samples)


CASES: dict[str, Case] = {
    "accuracy": Case(st.tuples(st.booleans()), mean_of_values),
    "group_accuracy": Case(st.tuples(st.sampled_from("abc"), st.booleans()), per_group, grouped=True),
    "relaxed_accuracy": Case(
        st.sampled_from([*NEAR, *TEXTS]),
        lambda samples: fmean(right for _, _, right in samples),
        lambda metric, samples: Statistic.of(metric, [metric.per_sample(said, truth) for said, truth, _ in samples]),
    ),
    "macro_accuracy": Case(st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 3), st.just(4)), of_subjects),
    "vqa_accuracy": Case(
        st.integers(2, 12).flatmap(lambda people: st.tuples(st.integers(0, people), st.just(people))), leave_one_out
    ),
    "anls": Case(st.tuples(short, st.lists(short, min_size=1, max_size=3)), anls),
    "f1": Case(yes_no, harmonic),
    "precision": Case(yes_no, both),
    "recall": Case(yes_no, found),
    "macro_f1": Case(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2), st.just(3)), mean_of_splits),
    "mme_total": Case(mme_picture, mme(["Perception", "Cognition"]), mme_pictures),
    "mme_perception": Case(mme_picture, mme(["Perception"]), mme_pictures),
    "mme_cognition": Case(mme_picture, mme(["Cognition"]), mme_pictures),
    "yes_ratio": Case(st.tuples(st.booleans()), mean_of_values),
    **{f"bleu_{order}": Case(captioned, bleu(order), caption_statistic) for order in range(1, 5)},
    "rouge_l": Case(captioned, rouge, caption_statistic),
    "cider": Case(captioned, cider, caption_statistic),
    "meteor": Case(matching(), meteor),
}


def task_of(metric: str) -> Task:
    prompt = TaskPrompt(format="plain")
    return Task(
        name="t", version=1, kind="captioning", dataset="t.json", prompt=prompt, max_new_tokens=1, metrics=(metric,), headline=metric
    )  # fmt: skip


def stored(statistic: Statistic) -> SampleScores:
    """The samples' statistics, written and read again."""
    samples = [HeldOutSample(str(row), "") for row in range(len(statistic.parts))]
    with tempfile.TemporaryDirectory() as folder:
        write_sample_scores(Path(folder), samples, [""] * len(samples), {statistic.metric.name: statistic})
        return read_sample_scores(Path(folder))


def test_every_registered_metric_has_a_second_implementation() -> None:
    assert set(CASES) == set(OWN_METRICS)


@pytest.mark.parametrize("name", OWN_METRICS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_published_stored_and_slow_values_are_one(name: str, data: st.DataObject) -> None:
    metric, case = find_metric(name), CASES[name]
    samples = data.draw(st.lists(case.sample, min_size=1, max_size=8))
    statistic = case.of(metric, samples)
    findings = Findings(statistics={MODEL: {name: statistic}, "blank": {name: statistic}}, answers={})
    published = publish(EvaluateConfig(task="captioning", bootstrap_samples=100), task_of(name), findings)
    again = stored(statistic).statistic(name)
    assert not math.isnan(again.value())
    assert round(100 * again.value(), 4) == published.metrics[name].value == published.controls["blank"][name].value
    assert published.differences["blank"].value == 0
    assert again.value() == pytest.approx(case.brute(samples), rel=1e-6, abs=1e-9)
    assert again.value() == statistic.value()


@pytest.mark.parametrize("name", OWN_METRICS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_resample_scores_like_the_samples_that_it_stands_for(name: str, data: st.DataObject) -> None:
    metric, case = find_metric(name), CASES[name]
    statistic = case.of(metric, data.draw(st.lists(case.sample, min_size=1, max_size=6)))
    resamples = Resamples.draw(len(statistic.units), 3, seed=data.draw(st.integers(0, 99)))
    for counts, value in zip(resamples.counts, statistic.resampled(resamples), strict=True):
        units = np.repeat(statistic.units, counts, axis=0)
        groups = [str(row) for row in range(len(units))] if metric.pooling == "all" else None
        assert Statistic.of(metric, units, groups).value() == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", OWN_METRICS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_paired_tests_are_of_the_same_values(name: str, data: st.DataObject) -> None:
    metric, case = find_metric(name), CASES[name]
    pairs = data.draw(st.lists(st.tuples(case.sample, case.sample), min_size=1, max_size=7))
    first = [one for one, _ in pairs]
    second = [(one[0], *other[1:]) if case.grouped else other for one, other in pairs]
    one, other = (stored(case.of(metric, samples)) for samples in (first, second))
    test, opposite, none = (paired_tests(*both, [name])[name] for both in ((one, other), (other, one), (one, one)))
    assert test.value == pytest.approx(100 * (case.brute(second) - case.brute(first)), abs=1e-3)
    assert opposite.value == -test.value
    assert 0 < test.p_value <= 1
    assert (none.value, none.p_value) == (0, 1)


@pytest.mark.parametrize("metric", OWN_METRICS.values(), ids=OWN_METRICS)
def test_what_a_metric_says_of_itself(metric: Metric[...]) -> None:
    assert metric.name == metric.name.lower()
    assert metric.label
    assert metric.unit
    assert metric.version >= 1
    if metric.form == "share":
        assert metric.full_scale == 100


# Groups.


def test_groups_are_what_is_scored_and_resampled() -> None:
    pairs = [("a", True), ("b", True), ("a", True), ("b", False), ("c", False), ("c", False), ("d", True), ("d", True)]
    statistic = CASES["group_accuracy"].of(GROUP_ACCURACY, pairs)
    assert statistic.units.tolist() == [[1, 1], [0, 1], [0, 1], [1, 1]]
    findings = Findings(statistics={MODEL: {"group_accuracy": statistic}}, answers={})
    published = publish(EvaluateConfig(task="captioning"), task_of("group_accuracy"), findings).metrics[
        "group_accuracy"
    ]
    low, high = wilson_interval(2, 4)
    assert (published.value, published.low, published.high) == (50, round(100 * low, 4), round(100 * high, 4))
    assert stored(statistic).statistic("group_accuracy").groups == tuple(group for group, _ in pairs)
    kept = statistic.chosen(np.array([group in "ab" for group, _ in pairs]))
    assert (kept.value(), len(kept.units)) == (0.5, 2)
    with pytest.raises(ValueError, match="judges groups of samples, but no groups"):
        Statistic.of(GROUP_ACCURACY, [(1.0, 1.0)])


def test_groups_of_alike_samples_widen_the_interval() -> None:
    """Ten answers about each picture, all right or all wrong, say no more than one."""
    generator = np.random.default_rng(0)
    right = np.repeat(generator.integers(0, 2, 60), 10)
    rows = [ACCURACY.per_sample(bool(value)) for value in right]
    alone = Statistic.of(ACCURACY, rows)
    together = Statistic.of(ACCURACY, rows, [str(row // 10) for row in range(600)])
    assert alone.value() == together.value()
    assert (alone.is_share, together.is_share) == (True, False)
    spread = [
        float(statistic.resampled(Resamples.draw(len(statistic.units), 2000, 1)).std())
        for statistic in (alone, together)
    ]
    assert spread[1] / spread[0] == pytest.approx(math.sqrt(10), rel=0.1)


# Edges and published values.


def test_degenerate_yes_no_questions_score_zero_and_not_nan() -> None:
    never = [metric.combine(np.array([[0.0, 0.0, 0.0, 5.0]]))[0] for metric in (PRECISION, RECALL, F1)]
    assert never == [0, 0, 0]


def test_anls_of_the_paper() -> None:
    assert ANLS.per_sample("Hello  World", ["hello world"]) == (1, 1)
    assert ANLS.per_sample("a  b c", ["a b"]) == (
        pytest.approx(1 - 2 / 6),
        1,
    )  # edits without the blanks, length with them
    assert ANLS.per_sample("word " * 2000, ["word"]) == (0, 1)
    assert ANLS.per_sample("abcd", ["abxy", "zzzz"]) == (0.5, 1)
    assert ANLS.per_sample("abcd", ["axyz"]) == (0, 1)  # below one half nothing counts
    assert ANLS.per_sample("", [""]) == (1, 1)
    assert edits("kitten", "sitting") == 3
    assert all(edits(first, second) == distance(first, second) for first, second in pairwise(["", "ab", "ba", "abc"]))


@pytest.mark.parametrize(("said", "truth", "right"), [*NEAR, *TEXTS, ("nan", "3", False), ("-38.5", "-40", True)])
def test_numbers_may_be_five_per_cent_off(said: str, truth: str, right: bool) -> None:
    assert RELAXED_ACCURACY.per_sample(said, truth) == (float(right), 1)


def test_subjects_count_alike_and_must_be_known() -> None:
    rows = [MACRO_ACCURACY.per_sample(1.0, 0, 3)] * 99 + [MACRO_ACCURACY.per_sample(0.0, 2, 3)]
    assert Statistic.of(MACRO_ACCURACY, rows).value() == 0.5
    with pytest.raises(ValueError, match="no subject 3 among 3"):
        MACRO_ACCURACY.per_sample(1.0, 3, 3)


# What is stored belongs to a version.


def test_other_versions_and_unknown_metrics_are_refused() -> None:
    row = SampleScore(id="1", image="", text="", statistics={"accuracy@0": (1.0, 1.0), "charm@1": (1.0, 1.0)})
    samples = SampleScores((row,))
    assert samples.metrics == ("accuracy", "charm")
    for name, complaint in (
        ("accuracy", "its accuracy is of version 0 of the metric, this code has version 1: evaluate it again"),
        ("charm", "there is no metric 'charm'; known are cider, "),
        ("f1", "f1 is not stored"),
    ):
        assert complaint in samples.problem(name)
        with pytest.raises(StageError, match=complaint[:20]):
            samples.statistic(name)


@pytest.mark.parametrize(("each", "enough"), [(1, False), (5, False), (10, True), (20, True)])
def test_mme_has_an_interval_where_every_subtask_has_ten_pictures(each: int, enough: bool) -> None:
    """All answers are right: a resample with fewer points lacks a subtask. A picture has two questions, each with half of it."""
    pictures = [f"{subtask}/{row}" for subtask in PART_OF for row in range(each)]
    groups = [name for name in pictures for _ in range(2)]
    rows = [MME_TOTAL.per_sample(1.0, 1.0, 2, name.partition("/")[0]) for name in groups]
    statistic = Statistic.of(MME_TOTAL, rows, groups)
    drawn = statistic.resampled(Resamples.draw(len(statistic.units), 1000, 0))
    assert statistic.has_interval == ((drawn < 27.9).mean() < 0.002) == enough
    assert statistic.chosen(np.array([name.startswith("OCR") for name in groups])).has_interval  # a subtask by itself
