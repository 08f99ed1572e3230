"""What is known of a run's vision tower before anything is downloaded."""

from components.download.config import RANDOM, WeightsConfig

_HUB = "hf://"


def tower_input(weights: WeightsConfig) -> tuple[int, int] | None:
    """Return the sides of a vision tower's input and of its patches, in pixels; None where the weights will say.

    Args:
        weights: Where the tower comes from.
    """
    if weights.vision_source == RANDOM:
        return weights.vision.image_size, weights.vision.patch_size
    if not weights.vision_source.startswith(_HUB):
        return None
    # Imported here: torch comes with it, and few settings ask.
    from components.model.families.published import published_config
    from components.model.families.vision.registry import read_vision

    published = published_config(weights.vision_source.removeprefix(_HUB).partition("@")[0])
    if published is None:
        return None
    tower = read_vision(published, -1)
    return tower.image_size, tower.patch_size
