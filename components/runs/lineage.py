"""Finds every stage that a result was made from, by following the manifests' inputs through the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.context import RunContext
from components.runs.folder import RunFolder
from components.stage.manifest import MANIFEST_NAME, Manifest, read_manifest


@dataclass(frozen=True)
class StageRecord:
    """One finished stage of a run.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.
        reused: True when this run found it finished.
    """

    folder: Path
    manifest: Manifest
    reused: bool

    @property
    def identity(self) -> str:
        """Stage name and key."""
        return f"{self.manifest.stage}/{self.manifest.key}"


def upstream_stages(context: RunContext, results: Sequence[Path]) -> list[StageRecord]:
    """Return the given stage folders and everything they were made from, inputs before what uses them.

    Args:
        context: The pipeline run: its workspace is searched, its progress files tell what was reused.
        results: Stage folders.

    Raises:
        StageError: A result is not a finished stage folder.
    """
    parts = RunFolder(context.workspace, context.run_id).parts()
    own = {part.stage: part.key for part in parts if part.key}
    found: dict[Path, Manifest] = {}
    order: list[Path] = []

    def visit(folder: Path) -> None:
        if folder in found:
            return
        manifest = read_manifest(folder)
        found[folder] = manifest
        # What was reused may have read an equal part of an older folder: this run's own is the one to show.
        origins = [f"{stage}/{own.get(stage, key)}" for stage, key in map(_split, manifest.read_from.values())]
        for identity in (*manifest.inputs.values(), *origins):
            upstream = context.workspace / identity
            # Inputs that are no stage folders (a URI, a partition) and folders that were cleaned away end the search.
            if _is_identity(identity) and (upstream / MANIFEST_NAME).is_file():
                visit(upstream.resolve())
        order.append(folder)

    for result in results:
        visit(result.resolve())
    reused = {(part.stage, part.key) for part in parts if part.state == "reused"}
    return [StageRecord(folder, found[folder], (found[folder].stage, found[folder].key) in reused) for folder in order]


def _split(identity: str) -> tuple[str, str]:
    stage, _, key = identity.rpartition("/")
    return stage, key


def _is_identity(identity: str) -> bool:
    parts = Path(identity).parts
    return len(parts) > 1 and not Path(identity).is_absolute() and ".." not in parts
