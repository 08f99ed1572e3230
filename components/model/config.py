"""Architecture of the multimodal model and of its two pretrained parts, as stored in `model.json`."""

import itertools
from pathlib import Path
from typing import Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.data.image_settings import ImageSettings, PixelSettings
from components.errors import InputError
from components.storage.atomic import write_text

MODEL_FILE = "model.json"
CHECKPOINT_FOLDER = "checkpoint"
TOKENIZER_FOLDER = "tokenizer"

Part = Literal["language", "vision", "projection"]
"""The parts of a model."""

StoredDtype = Literal["float32", "bfloat16"]
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RotaryScaling(BaseModel):
    """How Llama 3.1 and later stretch the slow frequencies of the rotary embedding (rope type "llama3").

    Attributes:
        factor: By how much wavelengths beyond the original context are stretched.
        low_freq_factor: Wavelengths longer than the original context divided by this are stretched fully.
        high_freq_factor: Those shorter than the original context divided by this are left; between the two it is mixed.
        original_max_position_embeddings (tokens): The context that the model was first trained for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float = Field(gt=0)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_position_embeddings: int = Field(gt=0)


class LanguageConfig(BaseModel):
    """A decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

    Attributes:
        family: Its family, a key of `components.model.families.language.registry`.
        num_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        ffn_hidden_size: Width of the gated MLP (of each of its two halves).
        num_attention_heads: Query heads.
        num_query_groups: Key and value heads; divides `num_attention_heads`.
        kv_channels: Width of a head.
        vocabulary_size: Tokens that exist; the loss and the logits see only these.
        padded_vocabulary_size: Rows of embedding and output layer, so that they divide by every tensor-parallel size
            that is wanted. Rows from `vocabulary_size` on are never looked up, and their logits are minus infinity.
        max_position_embeddings: Longest sequence that the weights were made for, in tokens.
        rotary_base: Base of the rotary embedding (HF's `rope_theta`).
        rotary_scaling: How its slow frequencies are stretched; None where they are not.
        norm_epsilon: Epsilon of every RMSNorm.
        tied_embeddings: Whether the output layer shares the embedding's weight.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_norm: Whether queries and keys are normed (RMSNorm over a head's width) before they are turned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "mistral"
    num_layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    ffn_hidden_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_query_groups: int = Field(gt=0)
    kv_channels: int = Field(gt=0)
    vocabulary_size: int = Field(gt=0)
    padded_vocabulary_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    rotary_base: float = Field(gt=0)
    rotary_scaling: RotaryScaling | None = None
    norm_epsilon: float = Field(gt=0)
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_query_groups "
                f"{self.num_query_groups}"
            )
        if self.padded_vocabulary_size < self.vocabulary_size:
            raise ValueError(
                f"padded_vocabulary_size {self.padded_vocabulary_size} is less than vocabulary_size "
                f"{self.vocabulary_size}"
            )
        return self


class VisionConfig(BaseModel):
    """A vision transformer.

    Attributes:
        family: Its family, a key of `components.model.families.vision.registry`.
        num_layers: Layers of the source model.
        hidden_size: Width of the residual stream, and of the features.
        ffn_hidden_size: Width of the MLP.
        num_attention_heads: Attention heads.
        image_size: Side of the square input in pixels.
        patch_size: Side of a patch in pixels.
        norm_epsilon: Epsilon of every LayerNorm.
        activation: Activation of the MLP: OpenAI's CLIP has "quick_gelu", SigLIP "gelu_tanh".
        class_token: Whether a class token stands before the patches; its feature is dropped.
        pre_norm: Whether the embeddings are normed before the first layer.
        patch_bias: Whether the patch embedding has a bias.
        feature_layer: Which layer's output is the feature: -1 the last (without the post-layernorm), -2 the last but
            one. Layers above it are not built.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "clip"
    num_layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    ffn_hidden_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    norm_epsilon: float = Field(gt=0)
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] = "quick_gelu"
    class_token: bool = True
    pre_norm: bool = True
    patch_bias: bool = False
    feature_layer: int = Field(default=-1, lt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is less than patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.built_layers < 1:
            raise ValueError(f"feature_layer {self.feature_layer} leaves none of the {self.num_layers} layers")
        return self

    @property
    def built_layers(self) -> int:
        """Number of layers up to the feature layer."""
        return self.num_layers + 1 + self.feature_layer

    @property
    def patches(self) -> int:
        """Number of patches of one picture; what is left beyond the last whole patch is not seen."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def places(self) -> int:
        """Number of tokens that the tower's layers see of one picture."""
        return self.patches + int(self.class_token)


class ProjectorConfig(BaseModel):
    """The linear layers between vision tower and language model.

    Attributes:
        depth (layers): Number of layers.
        ffn_hidden_size: Width between the layers; without a meaning where there is one.
        activation: What stands between two layers.
        bias: Whether every layer has a bias.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int = Field(default=2, gt=0)
    ffn_hidden_size: int = Field(gt=0)
    activation: Literal["silu", "gelu"] = "silu"
    bias: bool = False


class ModelConfig(BaseModel):
    """The whole multimodal model: what `model.json` of a model folder holds.

    Attributes:
        language: The language model.
        vision: The vision tower.
        projector: The projector between them.
        image: How pictures enter the vision tower.
        image_token_id: Token that stands for one feature of a picture: one patch, or several (`image.pixel_shuffle`). It is
            never looked up nor predicted, so it may lie beyond the vocabulary.
        versions: Versions of the software that wrote the folder, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: LanguageConfig
    vision: VisionConfig
    projector: ProjectorConfig
    image: ImageSettings
    image_token_id: int = Field(ge=0)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.image.size, self.image.patch) != (self.vision.image_size, self.vision.patch_size):
            raise ValueError(
                f"image.size {self.image.size} and image.patch {self.image.patch} must equal the vision tower's "
                f"{self.vision.image_size} and {self.vision.patch_size}"
            )
        return self

    @property
    def projector_layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of every layer of the projector."""
        inputs = self.vision.hidden_size * self.image.pixel_shuffle**2
        between = [self.projector.ffn_hidden_size] * (self.projector.depth - 1)
        return list(itertools.pairwise([inputs, *between, self.language.hidden_size]))


class LanguagePart(BaseModel):
    """`model.json` of a converted language model.

    Attributes:
        part: Says which part this is.
        config: The language model.
        dtype: Type that its parameters are stored in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Literal["language"] = "language"
    config: LanguageConfig
    dtype: StoredDtype = "float32"


class VisionPart(BaseModel):
    """`model.json` of a converted vision tower.

    Attributes:
        part: Says which part this is.
        config: The vision tower.
        pixels: How its pictures are resized and normalised.
        dtype: Type that its parameters are stored in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Literal["vision"] = "vision"
    config: VisionConfig
    pixels: PixelSettings
    dtype: StoredDtype = "float32"


Stored = TypeVar("Stored", bound=BaseModel)


def read_stored(folder: Path, kind: type[Stored]) -> Stored:
    """Read `model.json` of a folder as `kind`.

    Raises:
        InputError: The file is missing, not JSON, or describes something else.
    """
    path = folder / MODEL_FILE
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}). A model folder holds {MODEL_FILE}.") from error
    except ValidationError as error:
        raise InputError(f"{path} does not describe a {kind.__name__}: {error}") from error


def write_stored(folder: Path, value: BaseModel) -> None:
    """Write `model.json` of a folder atomically."""
    write_text(folder / MODEL_FILE, value.model_dump_json(indent=2) + "\n")


def read_model_config(folder: Path) -> ModelConfig:
    """Read the configuration of a model folder.

    Raises:
        InputError: `model.json` is missing or does not describe a multimodal model.
    """
    return read_stored(folder, ModelConfig)


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """Write the configuration of a model folder."""
    write_stored(folder, config)
