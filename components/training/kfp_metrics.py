"""Shows a finished training in the KFP UI."""

from pathlib import Path
from typing import Protocol

from components.stage.pointer import Artifact
from components.stage.runner import StageOutput
from components.storage.atomic import write_text
from components.training.metrics import CURVES_NAME, curves_html


class MetricsArtifact(Protocol):
    """The part of `kfp.dsl.Metrics` that is used here."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number in the UI."""


def publish_training(output: StageOutput, metrics: MetricsArtifact, curves: Artifact) -> None:
    """Give the UI the numbers and the curves of a finished training.

    Args:
        output: The training's stage folder.
        metrics: KFP Metrics artifact.
        curves: KFP HTML artifact.
    """
    for name, value in output.manifest.facts.items():
        if isinstance(value, int | float):
            metrics.log_metric(name, float(value))
    svg = (output.folder / CURVES_NAME).read_text(encoding="utf-8")
    write_text(Path(curves.path), curves_html(svg, output.manifest.stage))
