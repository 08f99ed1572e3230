"""energon's loader state as JSON: unlike a pickle, reading it can't run code, and an unknown content is refused.

Plain values stand as they are; anything else is an object with its type under "t" and its content under "v".
"""

import base64
import dataclasses
import json
from typing import Any

import numpy as np
import torch
from megatron.energon.flavors.webdataset.sample_loader import SliceState
from megatron.energon.rng import SystemRngState
from megatron.energon.savable_loader import SavableDataLoaderState, SavableDatasetCheckpoint, SavableDatasetState
from megatron.energon.state import FlexState

_RECORDS = {
    record.__name__: record
    for record in (SavableDataLoaderState, SavableDatasetCheckpoint, SavableDatasetState, SystemRngState, SliceState)
}


def encode_state(state: Any) -> bytes:
    """Write a state of energon's savable loader.

    Raises:
        TypeError: The state holds a type that this version does not know: energon's state has changed.
    """
    return json.dumps(_pack(state), separators=(",", ":"), allow_nan=False).encode()


def decode_state(content: bytes) -> Any:
    """Read what `encode_state` wrote.

    Raises:
        ValueError: The content is not such a state.
    """
    try:
        return _unpack(json.loads(content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a loader state: {error!r}") from error


def _pack(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_pack(item) for item in value]
    if isinstance(value, tuple):
        return {"t": "tuple", "v": [_pack(item) for item in value]}
    if isinstance(value, bytes):
        return {"t": "bytes", "v": base64.b64encode(value).decode()}
    if isinstance(value, FlexState | dict):
        name = "flex" if isinstance(value, FlexState) else "dict"
        return {"t": name, "v": [[_pack(key), _pack(item)] for key, item in value.items()]}
    if isinstance(value, torch.Tensor):
        return {"t": "tensor", "d": str(value.dtype).removeprefix("torch."), "v": value.tolist()}
    if isinstance(value, np.ndarray):
        return {"t": "array", "d": str(value.dtype), "v": value.tolist()}
    if type(value) in _RECORDS.values():
        names = [field.name for field in dataclasses.fields(value)]
        return {"t": type(value).__name__, "v": {name: _pack(getattr(value, name)) for name in names}}
    raise TypeError(f"the loader state holds a {type(value).__name__}, which this version can't save")


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value["t"], value["v"]
    if kind == "tuple":
        return tuple(_unpack(item) for item in content)
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind in ("flex", "dict"):
        pairs = {_unpack(key): _unpack(item) for key, item in content}
        return FlexState(pairs) if kind == "flex" else pairs
    if kind == "tensor":
        return torch.tensor(content, dtype=getattr(torch, value["d"]))
    if kind == "array":
        return np.array(content, dtype=value["d"])
    return _RECORDS[kind](**{name: _unpack(item) for name, item in content.items()})
