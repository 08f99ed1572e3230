"""Presets: a preset is a YAML file with the settings of a run.

Overrides (`pretrain.recipe.iterations=500`) change single values. Whatever is wrong is reported with its full key, what was
expected, and the nearest key that exists.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.errors import ConfigurationError
from components.export.config import ExportConfig
from components.yaml_text import parse_yaml
from pipelines.config import RunConfig
from pipelines.setting_keys import did_you_mean, key_exists, setting_keys

DEFAULT_PRESET = "laptop"


def preset_names() -> list[str]:
    """Return the names of the presets that come with this package."""
    folder = resources.files("pipelines") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a preset, apply overrides and validate the result.

    Args:
        preset: Name of a preset of this package, or path of a YAML file.
        overrides: `key=value` with dotted keys; values are YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigurationError: The preset is unknown or no YAML mapping, or a key or value is wrong.
    """
    return validate(apply_overrides(read_preset(preset), overrides), source=f"preset {preset}")


def export_settings(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> ExportConfig:
    """Return the settings of an export outside of a pipeline.

    Args:
        overrides: `export.KEY=VALUE`; they have the last word.
        given: Settings of the run whose model is exported; else the defaults.

    Raises:
        ConfigurationError: A key is not one of the export's, or a value is wrong.
    """
    for override in overrides:
        if not override.strip().startswith("export."):
            raise ConfigurationError(f"{override!r} is not a setting of the export, as export.custom_code=true.")
    tree = {**read_preset(DEFAULT_PRESET), "export": dict((given or {}).get("export", {}))}
    return validate(apply_overrides(tree, overrides), "this export").export


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset's tree without validating it.

    A preset that names another one in `extends` has its settings, but for those that it gives itself: mappings are merged,
    everything else is replaced.

    Raises:
        ConfigurationError: The preset or one that it extends is unknown or not a YAML mapping, or presets extend each other.
    """
    trees: list[dict[str, Any]] = []
    read: list[str] = []
    following: str | None = preset
    while following is not None:
        if following in read:
            raise ConfigurationError(f"The presets {', '.join(read)} extend each other: one of them must not.")
        read.append(following)
        tree = _read_tree(following)
        following = tree.pop("extends", None)
        if following is not None and not isinstance(following, str):
            raise ConfigurationError(f"The preset {read[-1]} extends {following!r}: it must name one preset or file.")
        trees.append(tree)
    merged: dict[str, Any] = {}
    for tree in reversed(trees):
        merged = _merged(merged, tree)
    return merged


def _read_tree(preset: str) -> dict[str, Any]:
    if preset in preset_names():
        text = (resources.files("pipelines") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    elif Path(preset).is_file():
        text = Path(preset).read_text(encoding="utf-8")
    else:
        raise ConfigurationError(
            f"There is no preset {preset!r}{did_you_mean(preset, preset_names())} Presets: {', '.join(preset_names())}; "
            "or give the path of a YAML file."
        )
    tree = _parse_yaml(text, f"preset {preset}")
    if not isinstance(tree, dict):
        raise ConfigurationError(
            f"The preset {preset} must be a YAML mapping of settings, it is a {type(tree).__name__}."
        )
    return tree


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a settings tree with `key=value` overrides applied in order.

    Args:
        tree: Settings as nested mappings.
        overrides: `a.b.c=value`; the value is YAML, so `5`, `1e-4`, `true`, `text`, `[1, 2]` and `{a: 1}` mean what they
            look like. A mapping replaces the whole section.

    Returns:
        The new tree; it is not validated.

    Raises:
        ConfigurationError: An override has no `=`, its key does not exist, or its value is not YAML.
    """
    result = _copied(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigurationError(
                f"The override {override!r} must have the form key=value, as pretrain.recipe.iterations=500."
            )
        if not key_exists(key):
            raise ConfigurationError(f"There is no setting {key!r}{did_you_mean(key, list(setting_keys()))}")
        put(result, key, _parse_yaml(text, f"the value of {key}"))
    return result


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set what a tree of settings has behind a dotted key; sections that are missing, or have another value, are made."""
    node = tree
    *sections, name = key.split(".")
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            child = node[section] = {}
        node = child
    node[name] = value


def validate(tree: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a settings tree.

    Args:
        tree: Settings as nested mappings.
        source: Where they come from, for the message.

    Returns:
        The configuration.

    Raises:
        ConfigurationError: Names every wrong key and what was expected.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors(include_url=False)]
        raise ConfigurationError("\n".join([f"The settings of {source} are not valid:", *lines])) from None


def _explain(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such setting{did_you_mean(key, list(setting_keys()))}"
    if problem["type"] == "missing":
        return f"{key}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | BaseModel) else f" (given: {problem['input']!r})"
    return f"{key}: {message}{given}" if key else message


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"Can't read {what} as YAML: {error}") from None


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = _copied(tree)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
