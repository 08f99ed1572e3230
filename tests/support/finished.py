"""Makes a folder that a test has filled a finished stage folder."""

from pathlib import Path

from components.stage.manifest import Manifest, list_files, write_manifest


def finish(folder: Path, stage: str, key: str = "test") -> Path:
    """Write the manifest as the stage would, without inputs, settings and facts."""
    manifest = Manifest(
        stage=stage, version=1, key=key, inputs={}, settings={}, facts={}, files=list_files(folder),
        started="2026-01-01T00:00:00+00:00", duration_s=0.0,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder
