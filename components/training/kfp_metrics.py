"""Shows a finished training in the KFP UI."""

from pathlib import Path

from components.stage.pointer import Artifact, MetricsArtifact, publish_numbers
from components.stage.runner import StageOutput
from components.storage.atomic import write_text
from components.tracking.metrics_file import METRICS_FILE, read_metrics
from components.training.curves import curves_page


def publish_training(output: StageOutput, metrics: MetricsArtifact, curves: Artifact) -> None:
    """Give the UI the numbers and the curves of a finished training.

    Args:
        output: The training's stage folder.
        metrics: KFP Metrics artifact.
        curves: KFP HTML artifact.
    """
    publish_numbers(metrics, output)
    rows = read_metrics(output.folder / METRICS_FILE)
    write_text(Path(curves.path), curves_page(output.manifest.stage, rows))
