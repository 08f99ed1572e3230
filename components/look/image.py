"""How pictures enter the model of some settings, before its weights are here."""

from components.combine.config import ImageChoice
from components.data.image_settings import ImageSettings
from components.download.weights_config import RANDOM, WeightsConfig
from components.errors import ConfigurationError
from components.model.families.published import published_config
from components.model.families.vision.registry import read_vision

_HUB = "hf://"


def image_settings_of(choice: ImageChoice, weights: WeightsConfig) -> ImageSettings:
    """Return how pictures enter a model: as its vision tower was trained, but for what is chosen otherwise.

    Args:
        choice: The settings of combine.
        weights: Where the vision tower comes from.

    Raises:
        ConfigurationError: Size and patch of the tower are known from its weights alone.
    """
    chosen = choice.model_dump(exclude_none=True)
    if weights.vision_source == RANDOM:
        own = {"size": weights.vision.image_size, "patch": weights.vision.patch_size}
    elif {"size", "patch"} <= set(chosen):
        own = {}
    else:
        published = published_config(weights.vision_source.removeprefix(_HUB).partition("@")[0])
        if published is None:
            raise ConfigurationError(
                f"How large pictures of {weights.vision_source} are is known from its weights alone: say it, as --set "
                "combine.image.size=336 --set combine.image.patch=14."
            )
        shape = read_vision(published, -1)
        own = {"size": shape.image_size, "patch": shape.patch_size}
    return ImageSettings(**{**own, **chosen})
