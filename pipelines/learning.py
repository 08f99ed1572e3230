"""What can be seen of a training on this machine while it learns: its losses, and what the model says of a held-out picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from components.runs.rows import StageRow
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.zero_shot_texts import Described, read_texts
from pipelines.curve import braille_curve

_CURVE_WIDTH = 60
_CURVE_HEIGHT = 3
_SAMPLES = 4


@dataclass(frozen=True)
class Learning:
    """How a training learns.

    Attributes:
        stage: The training.
        losses: Its losses until now, evenly spaced.
        share: How much of the training they cover, from 0 to 1.
        samples: The same held-out picture at several steps, the earliest first: of this training, or of an earlier one where
            its recipe asks for none.
    """

    stage: str
    losses: tuple[float, ...]
    share: float
    samples: tuple[Described, ...]


def learning(rows: Sequence[StageRow]) -> Learning | None:
    """Return what is seen of the last training that this run has begun; None before one has."""
    for row in reversed(rows):
        if row.folder is None or row.state == "reused" or not (row.folder / METRICS_FILE).is_file():
            continue
        measured = [entry for entry in read_metrics(row.folder / METRICS_FILE) if "loss" in entry]
        losses = [float(entry["loss"]) for entry in measured]
        total = row.total if row.state == "running" and row.unit == "steps" else None
        share = min(measured[-1]["step"] / total, 1.0) if total and measured else 1.0
        return Learning(row.stage, tuple(loss for loss in losses if math.isfinite(loss)), share, _samples(rows))
    return None


def _samples(rows: Sequence[StageRow]) -> tuple[Described, ...]:
    """Return what the last training that was asked for it has said of its first held-out picture."""
    for row in reversed(rows):
        said = read_texts(row.folder) if row.folder is not None and row.state != "reused" else []
        if said:
            return tuple(samples[0] for samples in said if samples)
    return ()


def drawn(seen: Learning, width: int) -> list[Text]:
    """Return the lines of a screen: the curve of the losses, and what the model said first and last.

    Args:
        seen: What is seen of the training.
        width: Columns there are.
    """
    lines: list[Text] = []
    # Logarithms, so that what is learnt late is seen too.
    heights = [math.log(loss) for loss in seen.losses if loss > 0]
    curve_width = max(round(seen.share * min(_CURVE_WIDTH, width - 2)), 1)
    curve = braille_curve(heights, curve_width, _CURVE_HEIGHT)
    if curve:
        lines += [Text(f"{seen.stage}: loss {seen.losses[0]:.3g} to {seen.losses[-1]:.3g}, logarithmic", "dim")]
        lines += [Text(line, "cyan", no_wrap=True) for line in curve]
    if seen.samples:
        first, *later = seen.samples
        step_width = len(str(seen.samples[-1].step))
        if first.question:
            lines.append(_line(f"asked of a held-out picture: {_one_line(first.question)}", "dim"))
            lines.append(_line(f"  the truth: {first.answer}", "dim"))
        else:
            lines.append(_line(f"a held-out picture: {first.answer}", "dim"))
        for sample in [first, *later[-(_SAMPLES - 1) :]]:
            lines.append(_line(f"  step {sample.step:{step_width}} says: {_one_line(sample.said)}", ""))
    return lines


def said(seen: Learning) -> list[str]:
    """Return a line for each time that the model described the picture, or was asked about it, for a log."""
    return [f'step {sample.step} says "{_one_line(sample.said)}" {_to(sample)}' for sample in seen.samples]


def _to(sample: Described) -> str:
    if not sample.question:
        return f'of "{sample.answer}"'
    return f'to "{_one_line(sample.question)}", where "{sample.answer}" is true'


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _one_line(text: str) -> str:
    """Return a text without line ends and control characters, which a model that has learnt nothing may say."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split()) or "(nothing)"
