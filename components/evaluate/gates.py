"""Quality gates: what a model must reach, judged on its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import StageError
from components.evaluate.config import Gate
from components.evaluate.scores import GateResult, Measure, PairedTest, Scores, read_scores
from components.pages.formats import p_value

if TYPE_CHECKING:
    from components.evaluate.sample_scores import SampleScores


@dataclass(frozen=True)
class Rival:
    """What an earlier run scored on the same task.

    Attributes:
        name: The run's name.
        run_id: Its MLflow run.
        scores: Its scores.
        samples: Its samples' scores.
    """

    name: str
    run_id: str
    scores: Scores
    samples: "SampleScores"


def judge(
    gates: Sequence[Gate], scores: Scores, samples: "SampleScores", rivals: Mapping[str, Rival]
) -> list[GateResult]:
    """Judge every gate.

    Args:
        gates: The gates.
        scores: What the model scored.
        samples: Its samples' scores.
        rivals: A gate's `baseline` to what that run scored.

    Raises:
        StageError: A gate asks for a metric or a control that was not computed: it can't pass unseen.
    """
    results = []
    for gate in gates:
        name = gate.metric or scores.headline
        if name not in scores.metrics:
            raise StageError(
                f"A gate judges {name}, which was not computed (there are {', '.join(scores.metrics)}). Change the gate or the task."
            )
        if gate.minimum is not None:
            results.append(_judge_minimum(gate, gate.minimum, name, scores))
        if gate.margin is not None:
            results.append(_judge_margin(gate, gate.margin, name, scores))
        if gate.baseline:
            results.append(_judge_against(rivals[gate.baseline], gate, name, scores, samples))
    return results


def enforce_gates(folders: Sequence[Path]) -> None:
    """End in failure if a gate with the action "fail" did not pass; print those that only warn.

    Called after scores and report are published, so that a failed run shows why.

    Args:
        folders: Evaluation folders.

    Raises:
        StageError: Which gates failed, with what was measured.
    """
    failed = []
    for folder in folders:
        scores = read_scores(folder)
        for result in scores.gates:
            verdict = "passed" if result.passed else "NOT PASSED"
            note = f" ({result.note})" if result.note else ""
            text = f"{scores.task}: {result.requirement}: {verdict} with {result.measured}{note}"
            print(f"WARNING: {text}" if result.outcome == "warn" else text, flush=True)
            if result.outcome == "fail":
                failed.append(text)
    if failed:
        raise StageError(
            "The model does not pass its quality gates.\n" + "\n".join(failed) + "\nThe report shows its answers."
        )


def _judge_minimum(gate: Gate, least: float, name: str, scores: Scores) -> GateResult:
    measure = scores.metrics[name]
    return GateResult(
        requirement=f"{scores.label(name)} at least {least:g}",
        measured=f"{measure.value:.1f}",
        passed=measure.value >= least,
        action=gate.action,
        note=_nearness(least, measure),
    )


def _judge_margin(gate: Gate, least: float, name: str, scores: Scores) -> GateResult:
    rivals = {control: values[name].value for control, values in scores.controls.items() if name in values}
    if not rivals:
        raise StageError(f"A gate asks for a margin of {name} over the controls, but none was computed.")
    sign = scores.sign(name)
    best = max(rivals, key=lambda control: sign * rivals[control])
    side = "above" if sign > 0 else "below"
    distance = sign * (scores.metrics[name].value - rivals[best])
    return GateResult(
        requirement=f"{scores.label(name)} at least {least:g} {side} the best control ({best}, {rivals[best]:.1f})",
        measured=f"{distance:.1f}",
        passed=distance >= least,
        action=gate.action,
        note=_nearness(sign * least, scores.differences[best]) if name == scores.headline else "",
    )


def _nearness(threshold: float, measure: Measure) -> str:
    """Say so where other samples could have decided otherwise."""
    if measure.low is None or measure.high is None or not measure.low <= threshold <= measure.high:
        return ""
    return f"the threshold lies within the 95 % interval, {measure.low:.1f} to {measure.high:.1f}: noise could decide"


def _judge_against(rival: Rival, gate: Gate, name: str, scores: Scores, samples: "SampleScores") -> GateResult:
    from components.evaluate.paired import paired_tests, why_not_comparable

    metric, where = scores.label(name), f"{rival.name} (MLflow run {rival.run_id[:8]})"
    problem = why_not_comparable(rival.scores, scores, (rival.samples, samples))
    problem = problem or rival.samples.problem(name) or samples.problem(name)
    sign = scores.sign(name)
    worse = "below" if sign > 0 else "above"
    if problem:
        return GateResult(
            requirement=f"{metric} not {worse} {where}",
            measured="nothing: they can't be compared",
            passed=False,
            action=gate.action,
            note=problem,
            baseline=rival.run_id,
        )
    test = paired_tests(rival.samples, samples, [name])[name]
    tolerance = f"at most {gate.max_drop:g} {worse}" if gate.max_drop else f"not {worse}"
    passed, verdict = _verdict(gate, test, sign)
    return GateResult(
        requirement=f"{metric} {tolerance} {where}, {rival.scores.metrics[name].value:.1f}",
        measured=f"{test.value:+.1f} ({test.low:+.1f} to {test.high:+.1f}, {p_value(test.p_value)}, {test.method})",
        passed=passed,
        action=gate.action,
        note=verdict,
        baseline=rival.run_id,
        difference=test,
    )


def _verdict(gate: Gate, test: PairedTest, sign: int) -> tuple[bool, str]:
    """Return whether a difference passes, and how it is to be read; `sign` is what a larger value is worth."""
    significant = test.p_value < gate.significance
    gain, least = sign * test.value, sign * ((test.low if sign > 0 else test.high) or 0.0)
    if gain >= 0:
        return True, "significantly better" if significant else "no significant difference"
    if not significant:
        return True, (
            f"the drop is not significant at {gate.significance:g}; the interval allows for one of {-min(least, 0.0):.1f}"
        )
    if -gain <= gate.max_drop:
        return True, "the drop is significant, but allowed"
    return False, f"the drop is significant at {gate.significance:g}"
