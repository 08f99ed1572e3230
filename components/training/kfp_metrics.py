"""Shows a finished training in the KFP UI."""

from pathlib import Path

from components.stage.pointer import Artifact, MetricsArtifact, publish_numbers
from components.stage.runner import StageOutput
from components.storage.atomic import write_text
from components.training.metrics import CURVES_NAME, curves_html


def publish_training(output: StageOutput, metrics: MetricsArtifact, curves: Artifact) -> None:
    """Give the UI the numbers and the curves of a finished training.

    Args:
        output: The training's stage folder.
        metrics: KFP Metrics artifact.
        curves: KFP HTML artifact.
    """
    publish_numbers(metrics, output)
    svg = (output.folder / CURVES_NAME).read_text(encoding="utf-8")
    write_text(Path(curves.path), curves_html(svg, output.manifest.stage))
