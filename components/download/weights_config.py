"""Settings of the download of weights."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.storage.config import TransferConfig
from components.storage.uri import Source

RANDOM = "random://"


class RandomLanguageConfig(BaseModel):
    """Shape of a random language model; the fields are those of transformers' configurations.

    Typed one by one, because a number that passed through KFP comes back as a float.

    Attributes:
        family: Its family, a `model_type` of `components.model.families.language`; its tokenizer has the family's control tokens.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the gated MLP.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads.
        head_dim: Width of a head.
        rope_theta: Base of the rotary embedding.
        max_position_embeddings (tokens): Longest sequence in tokens.
        tie_word_embeddings: Whether the output layer shares the embedding's weight.
        initializer_range: Standard deviation of the initial weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "mistral"
    hidden_size: int = Field(default=128, gt=0)
    intermediate_size: int = Field(default=320, gt=0)
    num_hidden_layers: int = Field(default=4, gt=0)
    num_attention_heads: int = Field(default=4, gt=0)
    num_key_value_heads: int = Field(default=2, gt=0)
    head_dim: int = Field(default=32, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    max_position_embeddings: int = Field(default=1024, gt=0)
    tie_word_embeddings: bool = False
    initializer_range: float = Field(default=0.08, gt=0)

    @property
    def fields(self) -> dict[str, Any]:
        """What transformers' configuration is given."""
        return self.model_dump(exclude={"family"})


class RandomVisionConfig(BaseModel):
    """Shape of a random vision tower; the fields are those of transformers' configurations.

    Attributes:
        family: Its family, a name of `components.model.families.vision`.
        image_size (pixels): Side of the square input in pixels.
        patch_size (pixels): Side of a patch in pixels.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads.
        initializer_range: Standard deviation of the initial weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = "clip"
    image_size: int = Field(default=64, gt=0)
    patch_size: int = Field(default=16, gt=0)
    hidden_size: int = Field(default=128, gt=0)
    intermediate_size: int = Field(default=512, gt=0)
    num_hidden_layers: int = Field(default=3, gt=0)
    num_attention_heads: int = Field(default=4, gt=0)
    initializer_range: float = Field(default=0.08, gt=0)

    @property
    def fields(self) -> dict[str, Any]:
        """What transformers' configuration is given."""
        return self.model_dump(exclude={"family"})


class WeightsConfig(BaseModel):
    """Where the language and the vision model come from.

    Attributes:
        language_source: `random://` (freshly initialised, for models that learn everything here) or a model in Hugging
            Face layout: `hf://ORG/NAME[@REVISION]`, `file:///FOLDER`, `s3://BUCKET/PREFIX`, or `https://HOST/FOLDER/` with
            a lock file.
        vision_source: The same for the vision tower, or a single file of OpenAI's (`.../ViT-L-14-336px.pt`).
        lock: URI of a lock file that the sources must agree with, as a download leaves it; empty for no check.
        transfer: How files are fetched.
        seed: Seed of random weights.
        language: Shape of the language model (source `random://`); its vocabulary follows from the tokenizer.
        vision: Shape of the vision tower (source `random://`).
        vocabulary (tokens): Largest number of tokens of the byte-level BPE that is trained on the dataset's text (source
            `random://`); at least 263: 256 bytes and Mistral's 7 control tokens. Other families have a few more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    language_source: Source = RANDOM
    vision_source: Source = RANDOM
    lock: Source = ""
    transfer: TransferConfig = TransferConfig()
    seed: int = 0
    language: RandomLanguageConfig = RandomLanguageConfig()
    vision: RandomVisionConfig = RandomVisionConfig()
    vocabulary: int = Field(default=512, ge=263)
