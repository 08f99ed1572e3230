"""The model folder that is exported: what it holds, and its parameters one at a time."""

from pathlib import Path

import torch

from components.data.tokenizer import ChatTokenizer
from components.errors import InputError
from components.model.checkpoint.sharded import stored_dtypes
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, ModelConfig, read_model_config
from components.model.vlm import VisionLanguageModel, outlined_model


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
        stored = stored_dtypes(self._checkpoint)
        self.dtype = torch.bfloat16 if stored == {torch.bfloat16} else torch.float32

    def outline(self, dtype: torch.dtype) -> VisionLanguageModel:
        """Return the whole model without memory for its parameters."""
        return outlined_model(self.config, dtype).eval()

    def reader(self, outline: VisionLanguageModel) -> ParameterReader:
        """Return what reads a parameter of the checkpoint, in the outline's type."""
        return ParameterReader(outline, self._checkpoint)
