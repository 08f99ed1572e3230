"""What is known of a run's models before anything is downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from components.download.weights_config import RANDOM, WeightsConfig

if TYPE_CHECKING:
    from components.model.families.hf_config import HfConfig

_HUB, _FILE = "hf://", "file://"


def tower_input(weights: WeightsConfig) -> tuple[int, int] | None:
    """Return the sides of a vision tower's input and of its patches, in pixels; None where the weights will say.

    Args:
        weights: Where the tower comes from.
    """
    if weights.vision_source == RANDOM:
        return weights.vision.image_size, weights.vision.patch_size
    published = source_config(weights.vision_source)
    if published is None:
        return None
    from components.model.families.vision.registry import read_vision

    tower = read_vision(published, -1)
    return tower.image_size, tower.patch_size


def language_width(weights: WeightsConfig) -> int | None:
    """Return the width of the language model's residual stream; None where the weights will say.

    Args:
        weights: Where the language model comes from.
    """
    if weights.language_source == RANDOM:
        return weights.language.hidden_size
    published = source_config(weights.language_source)
    return None if published is None else int(published.required("hidden_size"))


def source_config(source: str) -> "HfConfig | None":
    """Return what `config.json` of a source says, of a published model or a folder on this machine; None where it is to be fetched.

    Args:
        source: URI of a model.

    Raises:
        InputError: The folder's file can't be read, or is of a model that can't be converted.
    """
    # Imported here: torch comes with them, and few settings ask.
    if source.startswith(_HUB):
        from components.model.families.published import published_config

        return published_config(source.removeprefix(_HUB).partition("@")[0])
    if source.startswith(_FILE) and Path(source.removeprefix(_FILE)).is_dir():
        from components.model.families.hf_config import read_hf_config

        return read_hf_config(Path(source.removeprefix(_FILE)))
    return None
