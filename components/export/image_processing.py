"""The exported image processor: transformers' class for it, and its settings."""

from typing import Any

from PIL import Image

from components.model.config import ModelConfig, VisionConfig
from components.model.families.vision.registry import vision_family

PREPROCESSOR_FILE = "preprocessor_config.json"
CUSTOM_CLASS = "WideLlavaImageProcessor"
_EVERY_LAYOUT = "CLIPImageProcessor"


def image_processor_settings(config: ModelConfig, *, custom_code: bool) -> dict[str, Any]:
    """Return what `preprocessor_config.json` holds.

    The class is the tower's own where pictures are laid out as it does it, so that whoever knows the tower knows the
    processor; else CLIP's, which does every layout.

    Args:
        config: The model.
        custom_code: Whether the folder carries code, the image processor's included.
    """
    image, family = config.image, vision_family(config.vision.family)
    square = {"height": image.size, "width": image.size}
    size = {
        "pad": {"max_height": image.size, "max_width": image.size},
        "squash": square,
        "center_crop": {"shortest_edge": image.size},
    }[image.layout]
    settings: dict[str, Any] = {
        "image_processor_type": family.image_processor if image.layout == family.layout else _EVERY_LAYOUT,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": Image.Resampling[image.resample.upper()].value,
        "size": size,
        "do_center_crop": image.layout == "center_crop",
        "crop_size": square,  # also what LlavaProcessor counts a picture's tokens by
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
    if image.layout == "pad":
        settings |= {"do_pad": True, "pad_size": square}
    if custom_code:
        settings["image_processor_type"] = CUSTOM_CLASS
        settings["auto_map"] = {"AutoImageProcessor": f"image_processing_wide_llava.{CUSTOM_CLASS}"}
    return settings


def token_settings(config: ModelConfig) -> dict[str, Any]:
    """Return what `processor_config.json` has to count a picture's tokens by."""
    return {
        # The processor's only use of it is to count image tokens.
        "patch_size": config.image.patch * config.image.pixel_shuffle,
        "vision_feature_select_strategy": select_strategy(config.vision),
        "num_additional_image_tokens": int(config.vision.class_token),
    }


def select_strategy(vision: VisionConfig) -> str:
    """Return which of a tower's features transformers takes: "default" drops the first, which is the class token's."""
    return "default" if vision.class_token else "full"
