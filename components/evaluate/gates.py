"""Quality gates: what a model must reach, judged on its scores."""

from collections.abc import Sequence
from pathlib import Path

from components.errors import StageError
from components.evaluate.config import Gate
from components.evaluate.scores import METRIC_NAMES, GateResult, Measure, read_scores


def judge(
    gates: Sequence[Gate], headline: str, metrics: dict[str, Measure], controls: dict[str, dict[str, Measure]]
) -> list[GateResult]:
    """Judge every gate.

    Raises:
        StageError: A gate asks for a metric or a control that was not computed: it can't pass unseen.
    """
    results = []
    for gate in gates:
        name = gate.metric or headline
        if name not in metrics:
            raise StageError(
                f"A gate judges {name}, which was not computed (there are {', '.join(metrics)}). Change the gate or the task."
            )
        value = metrics[name].value
        if gate.minimum is not None:
            results.append(
                _result(gate, f"{METRIC_NAMES.get(name, name)} at least {gate.minimum:g}", value, gate.minimum)
            )
        if gate.margin is not None:
            rivals = {control: values[name].value for control, values in controls.items() if name in values}
            if not rivals:
                raise StageError(f"A gate asks for a margin of {name} over the controls, but none was computed.")
            best = max(rivals, key=lambda control: rivals[control])
            requirement = f"{METRIC_NAMES.get(name, name)} at least {gate.margin:g} above the best control ({best}, {rivals[best]:.1f})"
            results.append(_result(gate, requirement, value - rivals[best], gate.margin))
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
            text = f"{scores.task}: {result.requirement}: {'passed' if result.passed else 'NOT PASSED'} with {result.measured}"
            print(f"WARNING: {text}" if not result.passed and result.action == "warn" else text, flush=True)
            if not result.passed and result.action == "fail":
                failed.append(text)
    if failed:
        raise StageError(
            "The model does not pass its quality gates.\n" + "\n".join(failed) + "\nThe report shows its answers."
        )


def _result(gate: Gate, requirement: str, value: float, least: float) -> GateResult:
    return GateResult(requirement=requirement, measured=f"{value:.1f}", passed=value >= least, action=gate.action)
