"""The shapes of published models, known before anything is downloaded."""

from functools import cache
from importlib import resources
from typing import Any

from components.model.families.hf_config import HfConfig
from components.yaml_text import parse_yaml

_TABLE = "published.yaml"


def published_config(name: str) -> HfConfig | None:
    """Return what a published model's `config.json` says of its shape; None of a model that the table does not have.

    Args:
        name: Its name on the hub, as "Qwen/Qwen3-4B".
    """
    content = _table().get(name)
    return None if content is None else HfConfig(content, f"config.json of {name}")


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = (resources.files("components.model.families") / _TABLE).read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = parse_yaml(text)
    return table
