"""What is known of a run's models before anything is downloaded."""

from typing import TYPE_CHECKING

from components.download.config import RANDOM, WeightsConfig

if TYPE_CHECKING:
    from components.model.families.hf_config import HfConfig

_HUB = "hf://"


def tower_input(weights: WeightsConfig) -> tuple[int, int] | None:
    """Return the sides of a vision tower's input and of its patches, in pixels; None where the weights will say.

    Args:
        weights: Where the tower comes from.
    """
    if weights.vision_source == RANDOM:
        return weights.vision.image_size, weights.vision.patch_size
    published = _published(weights.vision_source)
    if published is None:
        return None
    # Imported here: torch comes with it, and few settings ask.
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
    published = _published(weights.language_source)
    return None if published is None else int(published.required("hidden_size"))


def _published(source: str) -> "HfConfig | None":
    if not source.startswith(_HUB):
        return None
    from components.model.families.published import published_config

    return published_config(source.removeprefix(_HUB).partition("@")[0])
