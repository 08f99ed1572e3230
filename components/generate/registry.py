"""The kinds of models that can be asked, each known by a file of its folder."""

import contextlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ConfigurationError, InputError
from components.generate.config import GenerateConfig

if TYPE_CHECKING:
    from components.generate.answerer import Answerer


@dataclass(frozen=True)
class Backend:
    """A kind of model.

    Attributes:
        name: What people call it.
        marker: A file of its folder by which it is known.
        opens: The function that makes it ready, as "module:function": imported when it is needed. It takes the folder and
            the generation's settings, and returns a context manager that gives an `Answerer`.
        shared: Whether several processes may answer a partition together.
        split: Whether a model may be split over processes (`tensor_parallel`).
    """

    name: str
    marker: str
    opens: str
    shared: bool = True
    split: bool = False


BACKENDS = (
    Backend("checkpoint", "model.json", "components.generate.answerers.checkpoint:open_checkpoint", split=True),
    Backend("endpoint", "endpoint.json", "components.generate.answerers.endpoint:open_endpoint", shared=False),
    Backend("transformers", "config.json", "components.generate.answerers.transformers_model:open_model"),
)


def find_backend(folder: Path, config: GenerateConfig) -> Backend:
    """Return the kind of the model in a folder.

    Args:
        folder: A model folder of ours, an export, or the folder of a published model.
        config: What is asked of it.

    Raises:
        InputError: It is none that is known.
        ConfigurationError: Models of its kind can't be spread over processes as the settings ask.
    """
    found = next((backend for backend in BACKENDS if (folder / backend.marker).is_file()), None)
    if found is None:
        markers = ", ".join(f"{backend.marker} ({backend.name})" for backend in BACKENDS)
        raise InputError(f"{folder} is no model that can be asked: it has none of {markers}.")
    if config.tensor_parallel > 1 and not found.split:
        raise ConfigurationError(
            f"tensor_parallel is {config.tensor_parallel}, but {folder} is asked through {found.name}, which does not split "
            "it. Set tensor_parallel to 1; serve a model that is too large for one GPU and name the server as an endpoint."
        )
    if config.processes > 1 and not found.shared:
        raise ConfigurationError(
            f"{config.processes} processes were asked for, but an endpoint is called by one: set calls.concurrency instead "
            "of processes_per_node."
        )
    return found


@contextlib.contextmanager
def open_answerer(folder: Path, config: GenerateConfig) -> "Iterator[Answerer]":
    """Make a model ready to answer; it is put away with the block.

    Raises:
        InputError: The folder is no model that can be asked, or is damaged.
        ConfigurationError: The settings don't fit it.
    """
    opens = pkgutil.resolve_name(find_backend(folder, config).opens)
    with opens(folder, config) as answerer:
        yield answerer
