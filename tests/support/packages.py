"""Reads what `compile_pipeline` wrote."""

from pathlib import Path
from typing import Any

import yaml


def read_package(path: Path) -> list[dict[str, Any]]:
    """Return a package's documents: the pipeline, and what is Kubernetes' of it if it asks for a cluster."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))
