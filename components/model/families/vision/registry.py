"""The families of vision towers."""

from components.errors import InputError
from components.model.config import VisionConfig
from components.model.families.hf_config import HfConfig
from components.model.families.vision.clip import CLIP
from components.model.families.vision.family import VisionFamily
from components.model.families.vision.siglip import SIGLIP

_FAMILIES = (
    CLIP,
    SIGLIP,
)

VISION_FAMILIES = {family.name: family for family in _FAMILIES}

_NOT_SUPPORTED = {
    "siglip2": "SigLIP 2 with pictures of any shape (NaFlex); take one of fixed resolution, such as "
    "google/siglip2-so400m-patch14-384",
}


def vision_family(name: str) -> VisionFamily:
    """Return a family.

    Args:
        name: As in `VisionConfig.family`.

    Raises:
        InputError: There is no such family.
    """
    if name not in VISION_FAMILIES:
        raise InputError(f"{name!r} is no family of vision towers; there are {_names()}.")
    return VISION_FAMILIES[name]


def family_of(config: HfConfig) -> VisionFamily:
    """Return the family that a `config.json` belongs to.

    Raises:
        InputError: The tower is of no supported family.
    """
    for family in VISION_FAMILIES.values():
        if config.model_type in family.model_types and config.architecture in (
            *family.architectures,
            config.model_type,
        ):
            return family
    what = _NOT_SUPPORTED.get(config.model_type, f"model_type {config.model_type!r}")
    raise InputError(
        f"{config.source} is a {config.architecture}: {what}. As vision tower, these are supported: {_names()}."
    )


def read_vision(config: HfConfig, feature_layer: int) -> VisionConfig:
    """Read a vision tower's architecture, alone or within a whole model's.

    Args:
        config: Its `config.json`.
        feature_layer: Which layer's output is the feature; -1 the last.

    Raises:
        InputError: The family, or a feature of the tower, is not supported.
    """
    return family_of(config).read(config, feature_layer)


def _names() -> str:
    return ", ".join(f"{name} ({family.examples[0]}, ...)" for name, family in VISION_FAMILIES.items())
