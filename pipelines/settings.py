"""The settings of a run, as a list for people and programs.

All of it is read off the typed configuration: defaults and accepted values from its fields, meanings and units from the
docstrings of its classes, where a setting is described under `Attributes:` as `name (unit): meaning`. Which stages use a
setting follows from the table of stages.
"""

import fnmatch
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import docstring_parser
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from components.errors import ConfigurationError
from pipelines.config import RunConfig
from pipelines.preset_files import DEFAULT_PRESET, load_preset
from pipelines.setting_keys import annotation_parts, did_you_mean, is_model
from pipelines.stages import Place, Stage, training_stages

_BOUNDS = {
    "minimum": "{} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "{} or less",
    "exclusiveMaximum": "below {}",
}
_TYPES = {
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "string": "text",
    "array": "list",
    "object": "mapping",
    "null": "null",
}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: Its dotted key; `NAME` stands for an entry of a mapping, `[]` for one of a list.
        meaning: What it decides.
        unit: Unit of its value, as "s" or "tokens"; empty for none.
        accepts: What values it takes.
        required: Whether a preset must give it.
        default: Its default, in JSON types; None where it is required.
        values: What presets give it, in JSON types, by the preset's name.
        stages: Names of the stages that use it; empty if all do.
    """

    key: str
    meaning: str
    unit: str
    accepts: str
    required: bool
    default: Any
    values: Mapping[str, Any]
    stages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key's last part."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Section:
    """Settings that belong together.

    Attributes:
        key: Start of their keys; empty for those of the run itself.
        meaning: What they are about.
        settings: The settings that stand directly in it.
    """

    key: str
    meaning: str
    settings: tuple[Setting, ...]


def run_settings() -> list[Section]:
    """Return all settings of a run, in the order of the configuration."""
    sections = _sections(RunConfig, "", _summary(RunConfig), None)
    stages = [_of_any_evaluation(stage) for stage in training_stages(load_preset(DEFAULT_PRESET))]
    return [
        replace(
            section,
            settings=tuple(replace(item, stages=_used_by(item.key, stages)) for item in section.settings),
        )
        for section in sections
    ]


def matching(sections: Sequence[Section], wanted: str) -> list[Section]:
    """Return the settings that a text names.

    Args:
        sections: All settings.
        wanted: A setting's key, a section's, a pattern with `*`, or any part of keys; tried in this order.

    Raises:
        ConfigurationError: It names none.
    """
    for test in (_is_or_is_within, fnmatch.fnmatchcase, lambda key, part: part in key):
        found = [
            replace(section, settings=settings)
            for section in sections
            if (settings := tuple(setting for setting in section.settings if test(setting.key, wanted)))
        ]
        if found:
            return found
    keys = [key for section in sections for key in (section.key, *(setting.key for setting in section.settings)) if key]
    raise ConfigurationError(f"No setting is named {wanted!r}{did_you_mean(wanted, keys)} `vlm settings` lists all.")


def with_values(sections: Sequence[Section], preset: str, config: RunConfig) -> list[Section]:
    """Return the settings with the values that a preset gives them.

    Where the preset has entries, they stand in the place of `NAME` and `[]`.

    Args:
        sections: Settings.
        preset: Name of the preset.
        config: Its configuration.
    """
    tree, stages = config.model_dump(mode="json"), training_stages(config)
    result: dict[str, Section] = {}
    for section in sections:
        for setting in section.settings:
            found = [(key, {preset: value}) for key, value in _values(setting.key, tree)]
            for key, values in found or [(setting.key, {})]:
                place = key.rpartition(".")[0]
                known = result.get(place, Section(place, section.meaning, ()))
                concrete = replace(setting, key=key, values=values, stages=_used_by(key, stages))
                result[place] = replace(known, settings=(*known.settings, concrete))
    return list(result.values())


def as_yaml(value: Any) -> str:
    """Return a value in JSON types as it is written after `--set KEY=`."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _sections(model: type[BaseModel], key: str, meaning: str, defaults: BaseModel | None) -> Iterator[Section]:
    described = _described(model)
    settings: list[Setting] = []
    inner: list[Iterator[Section]] = []
    for name, field in model.model_fields.items():
        path = f"{key}.{name}" if key else name
        text, unit = described.get(name, ("", ""))
        given = defaults is not None or not field.is_required()
        default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        parts = annotation_parts(field.annotation)
        if not (len(parts) == 1 and is_model(parts[0])):
            value = to_jsonable_python(default) if given else None
            settings.append(Setting(path, text, unit, _accepted(field), not given, value, {}))
        for part in parts:
            if is_model(part):
                inner.append(_sections(part, path, text, default if isinstance(default, BaseModel) else None))
            for place, entry in _entries(part):
                inner.append(_sections(entry, f"{path}{place}", _summary(entry), None))
    yield Section(key, meaning, tuple(settings))
    for sections in inner:
        yield from sections


def _entries(part: Any) -> list[tuple[str, type[BaseModel]]]:
    """Return the models that a mapping or a list holds, and how their place is written."""
    origin, arguments = typing.get_origin(part), typing.get_args(part)
    if origin is dict and is_model(arguments[1]):
        return [(".NAME", arguments[1])]
    if origin is tuple and is_model(arguments[0]):
        return [("[]", arguments[0])]
    return []


def _described(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Return meaning and unit of each field, those of base classes included."""
    result: dict[str, tuple[str, str]] = {}
    for class_ in reversed(model.__mro__):
        if is_model(class_) and class_ is not BaseModel:
            for item in docstring_parser.parse(class_.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE).params:
                result[item.arg_name] = (" ".join((item.description or "").split()), item.type_name or "")
    return result


def _summary(model: type[BaseModel]) -> str:
    return docstring_parser.parse(model.__doc__ or "").short_description or ""


def _accepted(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return _in_words(TypeAdapter(annotation).json_schema())


def _in_words(schema: Mapping[str, Any]) -> str:
    """Say what a JSON schema accepts, as "integer, 1 or more"."""
    if "anyOf" in schema:
        return " or ".join(_in_words(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(as_yaml(value) for value in schema["enum"])
    bounds = [text.format(f"{schema[name]:g}") for name, text in _BOUNDS.items() if name in schema]
    pattern = [f"matching {schema['pattern']}"] if "pattern" in schema else []
    items = f" of {_in_words(schema['items'])}" if "$ref" not in schema.get("items", {"$ref": ""}) else ""
    return ", ".join([f"{_TYPES.get(schema.get('type', ''), 'mapping')}{items}", *bounds, *pattern])


def _of_any_evaluation(stage: Stage) -> Stage:
    """Return a row of the table with `NAME` in the place of the evaluation's name, if it has one."""
    room, _, use = stage.name.partition("/")
    if not stage.settings.startswith("evaluations."):
        return stage
    return replace(stage, name=f"{room}/NAME", settings=stage.settings.replace(f".{use}.", ".NAME."))


def _used_by(key: str, stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the stages whose settings hold a key, else those with settings in the same section; empty if all use it."""
    section = key.rpartition(".")[0]
    if _is_or_is_within(key, "cluster.job"):
        found = [stage for stage in stages if stage.place is Place.TRAINING]
    else:
        configured = [stage for stage in stages if stage.settings]
        found = [stage for stage in configured if _is_or_is_within(key, stage.settings)]
        found = found or [stage for stage in configured if section and _is_or_is_within(stage.settings, section)]
    return tuple(dict.fromkeys(stage.name for stage in found))


def _is_or_is_within(key: str, wanted: str) -> bool:
    """Tell whether a key is the wanted one or lies in that section; any name fits `NAME`, and any index `[]`."""
    names, wanted_names = _names(key), _names(wanted)
    return len(wanted_names) <= len(names) and all(
        name == wanted_name
        or "NAME" in (name, wanted_name)
        or (name.startswith("[") and wanted_name == "[]")
        or (name == "[]" and wanted_name.startswith("["))
        for name, wanted_name in zip(names, wanted_names, strict=False)
    )


def _names(key: str) -> list[str]:
    return key.replace("[", ".[").split(".")


def _values(key: str, tree: Any) -> list[tuple[str, Any]]:
    """Return the keys that a general key stands for in a tree of settings, each with its value."""
    found: list[tuple[str, Any]] = [("", tree)]
    for name in _names(key):
        found = [entry for path, node in found for entry in _children(path, node, name)]
    return [(path.removeprefix("."), value) for path, value in found]


def _children(path: str, node: Any, name: str) -> list[tuple[str, Any]]:
    if name == "[]":
        return [(f"{path}[{index}]", value) for index, value in enumerate(node)]
    if not isinstance(node, dict):  # an optional section that is left out
        return []
    return [(f"{path}.{entry}", value) for entry, value in node.items() if name in (entry, "NAME")]
