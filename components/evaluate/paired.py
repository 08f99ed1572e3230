"""Whether two evaluations can be compared, and whether they differ: paired tests of every metric."""

from collections.abc import Sequence

from components.evaluate.sample_scores import SampleScores
from components.evaluate.scores import PairedTest, Scores
from components.metrics.paired import paired_test
from components.tasks.kind import in_points


def paired_tests(first: SampleScores, second: SampleScores, metrics: Sequence[str]) -> dict[str, PairedTest]:
    """Compare two models on the same samples, by the test that fits each metric; see `components.metrics.paired`.

    Args:
        first: The samples' scores of the one that is compared with.
        second: Scores of the same samples, in the same order.
        metrics: What is compared.

    Returns:
        Metric to second minus first, in points, two-sided.

    Raises:
        ValueError: The samples are not the same, or grouped otherwise.
    """
    if first.ids != second.ids:
        raise ValueError("paired tests need the same samples in the same order")
    tests = {}
    for metric in metrics:
        one, other = first.statistic(metric), second.statistic(metric)
        if one.groups != other.groups:
            raise ValueError(f"paired tests need the same groups of samples; those of {metric} differ")
        found = paired_test(one.units, other.units, one.metric.combine, one.unit_form)
        tests[metric] = PairedTest(
            value=in_points(found.value),
            low=in_points(found.low),
            high=in_points(found.high),
            p_value=found.p_value,
            method=found.method,
        )
    return tests


def why_not_comparable(first: Scores, second: Scores, samples: tuple[SampleScores, SampleScores] | None = None) -> str:
    """Return why two evaluations can't be compared, both values named; empty where they can.

    Args:
        first: Scores of one model.
        second: Scores of the other one.
        samples: The samples of both, where they are known.
    """
    facts = (
        ("task", first.task, second.task),
        ("task version", first.prompt_version, second.prompt_version),
        ("prompt", repr(first.prompt), repr(second.prompt)),
        ("task's settings", first.task_identity, second.task_identity),
        ("ground truth (SHA-256)", first.dataset[:16], second.dataset[:16]),
        ("way to cut captions into words", first.tokenizer, second.tokenizer),
        ("number of samples", str(first.n_scored), str(second.n_scored)),
    )
    for name, one, other in facts:
        if one != other:
            return f"the {name} differs: {one} and {other}"
    if samples and samples[0].ids != samples[1].ids:
        alone = [sorted(set(one.ids) - set(other.ids)) for one, other in (samples, samples[::-1])]
        named = " and ".join(ids[0] if ids else "none" for ids in alone)
        return f"the samples differ: {len(alone[0])} and {len(alone[1])} are in one evaluation alone, as {named}"
    return ""
