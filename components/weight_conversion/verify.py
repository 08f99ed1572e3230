"""Proof of a conversion: the stored checkpoint computes what independent code computes from the source.

Both sides hold the weights as they are stored and compute in float32, one layer in memory at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.model.attention import packed_layout
from components.model.checkpoint.sharded import PART_PREFIXES
from components.model.checkpoint.streamed import ParameterReader
from components.model.config import LanguageConfig, VisionConfig
from components.model.families.vision.registry import vision_family
from components.model.language import LanguageModel
from components.model.streaming import layers_streamed, outlined
from components.model.transformer_config import BuildSettings
from components.model.vision_tower import VisionTower
from components.weight_conversion.tensor_source import TensorSource

_SEED = 20240
_SAMPLE_LENGTHS = (17, 9)  # two samples in one sequence: positions restart, attention stays within a sample
_PICTURES = 2


@dataclass(frozen=True)
class Difference:
    """How far two outputs are apart.

    Attributes:
        largest: Largest absolute difference of any value.
        scale: Largest absolute value of the source's output.
    """

    largest: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Tell whether the difference is at most `tolerance`, relative to the scale where that is above 1."""
        return self.largest <= tolerance * max(1.0, self.scale)


def language_difference(
    folder: Path, tensors: TensorSource, checkpoint: Path, config: LanguageConfig, dtype: torch.dtype
) -> Difference:
    """Compare logits of random tokens with those of transformers.

    Args:
        folder: The source in Hugging Face layout.
        tensors: Its tensors.
        checkpoint: The converted checkpoint.
        config: Its architecture.
        dtype: Type that its parameters are stored in.

    Returns:
        The difference over all tokens and the whole vocabulary.
    """
    generator = torch.Generator().manual_seed(_SEED)
    lengths = [min(length, config.max_position_embeddings) for length in _SAMPLE_LENGTHS]
    samples = [torch.randint(config.vocabulary_size, (length,), generator=generator) for length in lengths]
    expected = _transformers_logits(folder, tensors, samples, dtype)
    model = outlined(lambda: LanguageModel(config, BuildSettings())).eval()
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    layout = packed_layout(cu_seqlens, positions, max(lengths))
    with layers_streamed(model, model.decoder.layers, ParameterReader(model, checkpoint, PART_PREFIXES["language"])):
        found = model.logits(model.run_packed(model.embed(torch.cat(samples)), positions, layout))
    return _difference(found[:, : config.vocabulary_size], expected)


def vision_difference(
    folder: Path, tensors: TensorSource, prefix: str, checkpoint: Path, config: VisionConfig, dtype: torch.dtype
) -> Difference:
    """Compare the features of random pictures with those of transformers; see `language_difference`.

    Args:
        folder: The source in Hugging Face layout.
        tensors: Its tensors.
        prefix: What the vision tower's tensors begin with.
        checkpoint: The converted checkpoint.
        config: Its architecture.
        dtype: Type that its parameters are stored in.
    """
    pixels = _pictures(config)
    expected = _transformers_features(folder, tensors, prefix, pixels, config, dtype)
    return _difference(_stored_features(checkpoint, config, pixels), expected)


def openai_vision_difference(
    tensors: TensorSource, prefix: str, checkpoint: Path, config: VisionConfig, dtype: torch.dtype
) -> Difference:
    """Compare the features of random pictures with those of `torch.nn.MultiheadAttention` on OpenAI's own tensors."""
    pixels = _pictures(config)
    tower = _OpenAiTower(config)
    tower.load_state_dict(
        {name: tensors.tensor(f"{prefix}{name}").to(dtype).float() for name in tower.state_dict()}, assign=True
    )
    with torch.no_grad():
        expected = tower(pixels)
    return _difference(_stored_features(checkpoint, config, pixels), expected)


def _pictures(config: VisionConfig) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(_PICTURES, 3, config.image_size, config.image_size, generator=generator)


def _stored_features(checkpoint: Path, config: VisionConfig, pixels: Tensor) -> Tensor:
    tower = outlined(lambda: VisionTower(config, BuildSettings())).eval()
    with layers_streamed(tower, tower.decoder.layers, ParameterReader(tower, checkpoint, PART_PREFIXES["vision"])):
        features: Tensor = tower(pixels)
    return features


def _transformers_logits(folder: Path, tensors: TensorSource, samples: list[Tensor], dtype: torch.dtype) -> Tensor:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model = _without_memory(lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32))

    def read(name: str) -> Tensor:
        if name == "lm_head.weight" and config.tie_word_embeddings:
            name = "model.embed_tokens.weight"
        return tensors.tensor(name).to(dtype).float()

    with layers_streamed(model, model.model.layers, read):
        return torch.cat([model(sample[None]).logits[0] for sample in samples])


def _transformers_features(
    folder: Path, tensors: TensorSource, prefix: str, pixels: Tensor, config: VisionConfig, dtype: torch.dtype
) -> Tensor:
    model = _without_memory(lambda: vision_family(config.family).reference(folder))
    with layers_streamed(model, model.encoder.layers, lambda name: tensors.tensor(f"{prefix}{name}").to(dtype).float()):
        states = model(pixels, output_hidden_states=True).hidden_states
    features: Tensor = states[config.feature_layer][:, int(config.class_token) :]
    return features


def _without_memory(build: Callable[[], Any]) -> Any:
    """Build a model of transformers whose parameters have no memory, but whose constants have."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build().eval()


def _difference(found: Tensor, expected: Tensor) -> Difference:
    found, expected = found.detach(), expected.detach()
    return Difference(largest=float((found - expected).abs().max()), scale=float(expected.abs().max()))


class _OpenAiBlock(nn.Module):
    def __init__(self, hidden: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(hidden, heads)
        self.ln_1 = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(hidden, ffn))
        self.mlp.add_module("c_proj", nn.Linear(ffn, hidden))
        self.ln_2 = nn.LayerNorm(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed, normed, normed, need_weights=False)[0]
        inner = self.mlp.get_submodule("c_fc")(self.ln_2(hidden))
        output: Tensor = hidden + self.mlp.get_submodule("c_proj")(inner * torch.sigmoid(1.702 * inner))
        return output


class _OpenAiTower(nn.Module):
    """OpenAI's vision transformer up to the feature layer, in plain PyTorch, under OpenAI's names."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(hidden))
        self.positional_embedding = nn.Parameter(torch.empty(config.patches + 1, hidden))
        self.conv1 = nn.Conv2d(3, hidden, config.patch_size, stride=config.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(hidden)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            _OpenAiBlock(hidden, config.ffn_hidden_size, config.num_attention_heads) for _ in range(config.built_layers)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.class_embedding.expand(1, len(pixels), -1), patches])
        hidden = self.ln_pre(tokens + self.positional_embedding[:, None])
        for block in self.transformer.get_submodule("resblocks").children():
            hidden = block(hidden)
        features: Tensor = hidden[1:].transpose(0, 1)
        return features
