"""KFP artifacts as pointers: they carry where a stage folder lies and its facts, never its bytes."""

import json
from pathlib import Path
from typing import Any, Protocol

from components.errors import StageError
from components.stage.runner import StageOutput
from components.storage.atomic import write_json


class Artifact(Protocol):
    """The part of `kfp.dsl.Artifact` that is used here."""

    path: str
    metadata: dict[str, Any]


class MetricsArtifact(Protocol):
    """The part of `kfp.dsl.Metrics` that is used here."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number in the UI."""


def publish(artifact: Artifact, output: StageOutput) -> None:
    """Point a KFP output artifact at a finished stage folder.

    The artifact's own content is a small JSON object (folder, stage, key, bytes, facts), so that lineage and UI show
    the facts while tens of gigabytes stay where they were written.
    """
    manifest = output.manifest
    pointer = {
        "folder": str(output.folder),
        "stage": manifest.stage,
        "key": manifest.key,
        "bytes": manifest.total_bytes,
        "files": len(manifest.files),
        "reused": output.reused,
        "duration_s": manifest.duration_s,
        "facts": manifest.facts,
    }
    write_json(Path(artifact.path), pointer)
    artifact.metadata.update(pointer)


def publish_numbers(metrics: MetricsArtifact, output: StageOutput) -> None:
    """Show the numeric facts of a finished stage in the KFP UI."""
    for name, value in output.manifest.facts.items():
        if isinstance(value, int | float):
            metrics.log_metric(name, float(value))


def folder_of(artifact: Artifact) -> Path:
    """Return the stage folder that a KFP input artifact points at.

    Raises:
        StageError: The artifact is not a pointer, or its folder is not mounted here.
    """
    try:
        folder = Path(json.loads(Path(artifact.path).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"The artifact {artifact.path} does not point at a stage folder: {error!r}") from error
    if not folder.is_dir():
        raise StageError(
            f"The stage folder {folder} does not exist here. Is the workspace volume mounted in this container?"
        )
    return folder
