"""The model folder that is exported: what it holds, and its parameters one at a time."""

import functools
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.models.vision.multimodal_projector import MultimodalProjector

from components.data.tokenizer import ChatTokenizer
from components.errors import InputError
from components.model.checkpoint import stored_tensors
from components.model.clip import ClipVisionTower
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, ModelConfig, read_model_config
from components.model.language import LanguageModel
from components.model.layer_specs import projector_submodules
from components.model.streaming import ParameterReader, outlined
from components.model.transformer_config import BuildSettings, projector_transformer_config
from components.model.vlm import VisionLanguageModel


class ModelSource:
    """A finished model folder; process groups must be set up.

    Args:
        folder: Holds `checkpoint/`, `model.json` and `tokenizer/`.

    Raises:
        InputError: Something is missing or damaged, or does not fit the rest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: ModelConfig = read_model_config(folder)
        self.tokenizer_folder = folder / TOKENIZER_FOLDER
        self.tokenizer = ChatTokenizer.load(self.tokenizer_folder)
        if self.tokenizer.image != self.config.image_token_id:
            raise InputError(
                f"The tokenizer of {folder} has the image token {self.tokenizer.image}, model.json says "
                f"{self.config.image_token_id}: they belong to different models."
            )
        self._checkpoint = folder / CHECKPOINT_FOLDER
        self.dtype = _stored_dtype(self._checkpoint)

    def outline(self, dtype: torch.dtype) -> VisionLanguageModel:
        """Return the whole model, unsplit and with plain layers, without memory for its parameters."""
        return outlined(functools.partial(_build, self.config, dtype)).eval()

    def reader(self, outline: VisionLanguageModel) -> ParameterReader:
        """Return what reads a parameter of the checkpoint, in the outline's type."""
        return ParameterReader(outline, self._checkpoint)


def _build(config: ModelConfig, dtype: torch.dtype) -> VisionLanguageModel:
    settings = BuildSettings(dtype=dtype)
    projector = MultimodalProjector(
        projector_transformer_config(config, settings),
        projector_submodules(settings.backend),
        "mlp",
        config.vision.hidden_size,
    )
    language, vision = LanguageModel(config.language, settings), ClipVisionTower(config.vision, settings)
    return VisionLanguageModel(config, language, vision, projector).to(dtype)


def _stored_dtype(checkpoint: Path) -> torch.dtype:
    stored_tensors(checkpoint)  # says what is wrong with a folder that is no checkpoint
    tensors = dist_checkpointing.serialization.load_tensors_metadata(str(checkpoint))
    return torch.bfloat16 if {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16} else torch.float32
