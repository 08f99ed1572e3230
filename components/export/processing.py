"""What turns a person's pictures and words into the model's input: tokenizer, chat template, image processor."""

import json
from pathlib import Path
from shutil import copyfile

from components.data.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TOKENIZER_SETTINGS_FILE
from components.export.image_processing import PREPROCESSOR_FILE, image_processor_settings, token_settings
from components.model.config import ModelConfig
from components.storage.atomic import write_json


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
    write_json(folder / PREPROCESSOR_FILE, image_processor_settings(config, custom_code=custom_code))
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": settings["image_token"],
            **token_settings(config),
        },
    )
    return {"bos": settings.get("bos_token", ""), "image": settings["image_token"]}
