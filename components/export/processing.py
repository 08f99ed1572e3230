"""What turns a person's pictures and words into the model's input: tokenizer, chat template, image processor."""

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

from components.data.image_settings import ImageSettings
from components.data.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TOKENIZER_SETTINGS_FILE
from components.model.config import ModelConfig
from components.storage.atomic import write_json

_PIL_BICUBIC = 3


def write_processing(folder: Path, config: ModelConfig, source: Path, *, custom_code: bool) -> dict[str, str]:
    """Write the files that `AutoProcessor` loads: tokenizer and chat template are the model folder's own.

    Args:
        folder: The export.
        config: The model.
        source: Folder of the model's tokenizer.
        custom_code: Whether the folder carries code, the image processor's included.

    Returns:
        Role ("bos", "image") to name of the control tokens; "bos" is empty for models without.
    """
    settings = json.loads((source / TOKENIZER_SETTINGS_FILE).read_text(encoding="utf-8"))
    for name in (TOKENIZER_FILE, CHAT_TEMPLATE_FILE):
        copyfile(source / name, folder / name)
    settings |= {"processor_class": "LlavaProcessor", "model_max_length": config.language.max_position_embeddings}
    write_json(folder / TOKENIZER_SETTINGS_FILE, settings)
    write_json(folder / "preprocessor_config.json", _image_settings(config.image, custom_code=custom_code))
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": settings["image_token"],
            # The processor's only use of it is to count image tokens.
            "patch_size": config.image.patch * config.image.pixel_shuffle,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,  # the class token, which the strategy drops again
        },
    )
    return {"bos": settings.get("bos_token", ""), "image": settings["image_token"]}


def _image_settings(image: ImageSettings, *, custom_code: bool) -> dict[str, Any]:
    square = {"height": image.size, "width": image.size}
    size = {
        "pad": {"max_height": image.size, "max_width": image.size},
        "squash": square,
        "center_crop": {"shortest_edge": image.size},
    }[image.layout]
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": _PIL_BICUBIC,
        "size": size,
        "do_center_crop": image.layout == "center_crop",
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
    if image.layout == "pad":
        settings |= {"do_pad": True, "pad_size": square}
    if custom_code:
        settings["image_processor_type"] = "WideLlavaImageProcessor"
        settings["auto_map"] = {"AutoImageProcessor": "image_processing_wide_llava.WideLlavaImageProcessor"}
    return settings
