"""What transformers is told about the model: `config.json`, `generation_config.json`, and code where stock Llava is not enough."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data.tokenizer import ChatTokenizer
from components.export.image_processing import select_strategy
from components.export.tensors import exported_vocabulary
from components.model.config import ModelConfig, StoredDtype
from components.model.families.language.registry import language_family
from components.model.families.vision.registry import vision_family
from components.storage.atomic import write_json

if TYPE_CHECKING:
    from transformers import LlavaConfig

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"

_CODE_FILES = ("configuration_wide_llava.py", "modeling_wide_llava.py", "image_processing_wide_llava.py")


def model_settings(
    config: ModelConfig, tokenizer: ChatTokenizer, dtype: StoredDtype, *, custom_code: bool
) -> "LlavaConfig":
    """Return the model's configuration as transformers' own object, which checks it."""
    from transformers import LlavaConfig

    from components.export.custom_code.configuration_wide_llava import WideLlavaConfig

    language, vision = config.language, config.vision
    text_family = language_family(language.family)
    tokens = tokenizer.generation_ids
    settings: dict[str, Any] = {
        "text_config": {
            "model_type": text_family.model_type,
            **text_family.settings(language),
            "vocab_size": exported_vocabulary(config),
            **tokens,
        },
        "vision_config": vision_family(vision.family).settings(vision),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": select_strategy(vision),
        "projector_hidden_act": config.projector.activation,
        "multimodal_projector_bias": config.projector.bias,
        "image_token_index": config.image_token_id,
        "image_seq_length": config.image.tokens,
        "tie_word_embeddings": language.tied_embeddings,
        "dtype": dtype,
        **tokens,
    }
    if not custom_code:
        return LlavaConfig(architectures=["LlavaForConditionalGeneration"], **settings)
    return WideLlavaConfig(
        architectures=["WideLlavaForConditionalGeneration"],
        projector_depth=config.projector.depth,
        projector_hidden_size=config.projector.ffn_hidden_size,
        pixel_shuffle=config.image.pixel_shuffle,
        **settings,
    )


def write_architecture(
    folder: Path, config: ModelConfig, tokenizer: ChatTokenizer, dtype: StoredDtype, *, custom_code: bool
) -> None:
    """Write `config.json`, `generation_config.json` and, if asked for, the modelling code.

    Args:
        folder: The export.
        config: The model.
        tokenizer: Its tokenizer.
        dtype: Type of the exported tensors.
        custom_code: Whether the folder carries code.
    """
    content = json.loads(model_settings(config, tokenizer, dtype, custom_code=custom_code).to_json_string())
    # Where transformers 4 looks for them; it would take its own defaults without a word.
    content["text_config"]["rope_theta"] = config.language.rotary_base
    if config.language.rotary_scaling is not None:
        content["text_config"]["rope_scaling"] = content["text_config"]["rope_parameters"]
    if custom_code:
        content["auto_map"] = {
            "AutoConfig": "configuration_wide_llava.WideLlavaConfig",
            "AutoModelForImageTextToText": "modeling_wide_llava.WideLlavaForConditionalGeneration",
        }
        for name in _CODE_FILES:
            with resources.as_file(resources.files("components.export.custom_code") / name) as path:
                shutil.copyfile(path, folder / name)
    write_json(folder / CONFIG_FILE, content)
    write_json(folder / GENERATION_FILE, _generation(config, tokenizer))


def _generation(config: ModelConfig, tokenizer: ChatTokenizer) -> dict[str, Any]:
    # Neither the image token, which is no word, nor rows that the model itself does not have; their logits are zero.
    added = range(config.language.vocabulary_size, exported_vocabulary(config))
    suppressed = sorted({config.image_token_id, *added})
    return {**tokenizer.generation_ids, "do_sample": False, "suppress_tokens": suppressed}
