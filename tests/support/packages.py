"""Reads what `compile_pipeline` wrote."""

from pathlib import Path
from typing import Any

from components.yaml_text import parse_documents


def read_package(path: Path) -> list[dict[str, Any]]:
    """Return a package's documents: the pipeline, and what is Kubernetes' of it if it asks for a cluster."""
    return parse_documents(path.read_text(encoding="utf-8"))
