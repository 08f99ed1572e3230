"""The dotted keys of all settings: which there are, and which was meant."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel

from pipelines.config import RunConfig


def setting_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all settings, sections included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models_of(field.annotation):
            yield from setting_keys(inner, f"{prefix}{name}.")
        for entry in _entries_of(field.annotation):
            yield from setting_keys(entry, f"{prefix}{name}.NAME.")


def key_exists(key: str) -> bool:
    """Tell whether a dotted key names a setting, an entry of a free mapping included."""
    candidates: list[Any] = [RunConfig]
    for name in key.split("."):
        fields = [model.model_fields[name].annotation for model in candidates if name in _fields(model)]
        free = [annotation for annotation in candidates if typing.get_origin(annotation) is dict]
        if not fields and not free:
            return False
        entries = [typing.get_args(annotation)[1] for annotation in free]
        candidates = [part for annotation in (*fields, *entries) for part in annotation_parts(annotation)]
    return True


def _fields(model: Any) -> Mapping[str, Any]:
    return model.model_fields if is_model(model) else {}


def is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Tell whether an annotation is a section of settings, not a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def annotation_parts(annotation: Any) -> list[Any]:
    """Return the alternatives of a union, else the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation_parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for argument in typing.get_args(annotation) for part in annotation_parts(argument)]
    return [annotation]


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in annotation_parts(annotation) if is_model(part)]


def _entries_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a free mapping maps names to."""
    mappings = [part for part in annotation_parts(annotation) if typing.get_origin(part) is dict]
    return [model for mapping in mappings for model in _models_of(typing.get_args(mapping)[1])]


def did_you_mean(key: str, known: list[str]) -> str:
    """Return a suggestion: the nearest whole key, else the nearest one with the same last name."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        last = key.rsplit(".", 1)[-1]
        by_last = [name for name in known if name.rsplit(".", 1)[-1] == last]
        names = sorted({name.rsplit(".", 1)[-1] for name in known})
        alike = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
        near = by_last[:3] or [name for name in known if alike and name.rsplit(".", 1)[-1] == alike[0]][:3]
    return f"; did you mean {' or '.join(near)}?" if near else "."
