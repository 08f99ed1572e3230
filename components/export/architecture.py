"""What transformers is told about the model: `config.json`, `generation_config.json`, and code where stock Llava is not enough."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError
from components.export.tensors import exported_vocabulary
from components.model.config import ModelConfig, StoredDtype
from components.storage.atomic import write_json

if TYPE_CHECKING:
    from transformers import LlavaConfig

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"

_CODE_FILES = ("configuration_wide_llava.py", "modeling_wide_llava.py", "image_processing_wide_llava.py")


def check_expressible(config: ModelConfig, *, custom_code: bool) -> None:
    """Refuse what transformers could not load.

    Raises:
        ConfigurationError: The projector is not as wide as the language model, and there is no code for it.
    """
    width, hidden = config.projector.ffn_hidden_size, config.language.hidden_size
    if width != hidden and not custom_code:
        raise ConfigurationError(
            f"transformers' Llava has a projector as wide as the language model ({hidden}), this model's is {width} wide. "
            "Set export.custom_code=true: the folder then carries its own modelling code and loads with "
            f"trust_remote_code=True. Or set combine.projector.ffn_hidden_size={hidden} and train again."
        )


def model_settings(
    config: ModelConfig, tokenizer: ChatTokenizer, dtype: StoredDtype, *, custom_code: bool
) -> "LlavaConfig":
    """Return the model's configuration as transformers' own object, which checks it."""
    from transformers import LlavaConfig

    from components.export.custom_code.configuration_wide_llava import WideLlavaConfig

    language, vision = config.language, config.vision
    tokens = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    settings: dict[str, Any] = {
        "text_config": {
            "model_type": "mistral",
            "vocab_size": exported_vocabulary(config),
            "hidden_size": language.hidden_size,
            "intermediate_size": language.ffn_hidden_size,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_attention_heads,
            "num_key_value_heads": language.num_query_groups,
            "head_dim": language.kv_channels,
            "hidden_act": "silu",
            "max_position_embeddings": language.max_position_embeddings,
            "rms_norm_eps": language.norm_epsilon,
            "rope_parameters": {"rope_type": "default", "rope_theta": language.rotary_base},
            "sliding_window": None,
            "tie_word_embeddings": language.tied_embeddings,
            **tokens,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.ffn_hidden_size,
            # Layers above the feature layer were never converted: the last one that exists is the feature layer.
            "num_hidden_layers": vision.built_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.norm_epsilon,
            "hidden_act": vision.activation,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",  # without the class token
        "projector_hidden_act": config.projector.activation,
        "multimodal_projector_bias": False,
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
        projector_hidden_size=config.projector.ffn_hidden_size,
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
    # Where transformers 4 looks for it; it would take its own default without a word.
    content["text_config"]["rope_theta"] = config.language.rotary_base
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
    content: dict[str, Any] = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
        "do_sample": False,
    }
    added = list(range(config.language.vocabulary_size, exported_vocabulary(config)))
    if added:  # rows that the model itself does not have; their logits are zero
        content["suppress_tokens"] = added
    return content
