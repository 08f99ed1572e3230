"""Strict checks of Kubernetes objects: unknown fields are errors, as they are for a careful API server."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
import referencing

from tests.support.paths import SUPPORT

SCHEMAS = SUPPORT / "schemas"
KUBERNETES_VERSION = "1.31.0"


def custom_resource_errors(body: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a custom resource by the schema of its CustomResourceDefinition."""
    validator = _validators()[(str(body["apiVersion"]), str(body["kind"]))]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def has_schema(body: Mapping[str, Any]) -> bool:
    """Tell whether the schema of a custom resource is here."""
    return (str(body["apiVersion"]), str(body.get("kind"))) in _validators()


def check_core(body: Mapping[str, Any]) -> None:
    """Raise if an object of Kubernetes' own kinds is not valid."""
    group, _, version = str(body["apiVersion"]).rpartition("/")
    name = "-".join(part for part in (str(body["kind"]).lower(), group.partition(".")[0], version) if part)
    _core_validator(name).validate(body)


def check_pod(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Raise if a pod template is no valid pod."""
    check_core({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **metadata}, "spec": spec})


@cache
def _core_validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_core_schema(name), registry=_core_registry())


@cache
def _core_registry() -> referencing.Registry:
    """The definitions that all core schemas share; `kubernetes_validate.validate` reads them for every object."""
    return referencing.Resource.from_contents(_core_schema("_definitions")) @ referencing.Registry()


def _core_schema(name: str) -> Any:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


@cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    found = {}
    for path in SCHEMAS.glob("*.json"):
        crd = json.loads(path.read_text())
        key = (f"{crd['group']}/{crd['version']}", crd["kind"])
        found[key] = jsonschema.Draft202012Validator(_strict(crd["schema"]))
    return found


def _strict(schema: Any) -> Any:
    """Forbid fields that a schema does not name."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        strict["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    return strict
