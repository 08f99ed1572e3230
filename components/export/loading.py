"""An exported folder as transformers sees it, with this project's copies of the classes that the folder may carry.

Code is taken from a folder only where a person asks for it (`trust_remote_code`); here the same code is at hand.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data.tokenizer import CHAT_TEMPLATE_FILE
from components.export.config import ExportConfig
from components.export.image_processing import PREPROCESSOR_FILE

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_WIDE = "wide_llava"


def load_processor(folder: Path, config: ExportConfig) -> "LlavaProcessor":
    """Return the folder's processor, resizing with PIL.

    Args:
        folder: The export.
        config: Its settings.
    """
    import transformers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    from components.export.custom_code.image_processing_wide_llava import WideLlavaImageProcessor

    kind = json.loads((folder / PREPROCESSOR_FILE).read_text(encoding="utf-8"))["image_processor_type"]
    image_type: Any = WideLlavaImageProcessor if config.custom_code else getattr(transformers, f"{kind}Pil")
    settings = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    del settings["processor_class"]
    return LlavaProcessor(
        image_processor=image_type.from_pretrained(folder, local_files_only=True),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
        chat_template=(folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8"),
        **settings,
    )


def exported_outline(folder: Path, config: ExportConfig) -> "LlavaForConditionalGeneration":
    """Return transformers' model as the folder's `config.json` describes it, without memory for its parameters.

    Args:
        folder: The export.
        config: Its settings.
    """
    import accelerate
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from components.export.custom_code.configuration_wide_llava import WideLlavaConfig
    from components.export.custom_code.modeling_wide_llava import WideLlavaForConditionalGeneration

    model_type = WideLlavaForConditionalGeneration if config.custom_code else LlavaForConditionalGeneration
    config_type = WideLlavaConfig if config.custom_code else LlavaConfig
    settings: Any = config_type.from_pretrained(folder, local_files_only=True)
    # Buffers are small, and computed where the module is built.
    with accelerate.init_empty_weights(include_buffers=False):
        return model_type(settings).eval()


def is_wide_export(folder: Path) -> bool:
    """Tell whether a folder is an export that carries code: Llava with a wider projector, which transformers does not know."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") == _WIDE


def load_wide_export(folder: Path, dtype: "torch.dtype") -> "tuple[LlavaForConditionalGeneration, LlavaProcessor]":
    """Return model and processor of an export that carries code, by this project's copy of that code.

    Args:
        folder: The export.
        dtype: Type of the parameters.
    """
    from components.export.custom_code.configuration_wide_llava import WideLlavaConfig
    from components.export.custom_code.modeling_wide_llava import WideLlavaForConditionalGeneration

    model = WideLlavaForConditionalGeneration.from_pretrained(
        folder,
        config=WideLlavaConfig.from_pretrained(folder, local_files_only=True),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
    )
    return model, load_processor(folder, ExportConfig(custom_code=True))
