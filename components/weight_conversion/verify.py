"""Proof of a conversion: the stored checkpoint computes what transformers computes from the source."""

from pathlib import Path

import torch
from torch import Tensor

from components.model.attention import packed_layout
from components.model.checkpoint import load_part
from components.model.clip import ClipVisionTower
from components.model.config import LanguageConfig, VisionConfig
from components.model.language import LanguageModel
from components.model.transformer_config import BuildSettings

_SEED = 20240
_SAMPLE_LENGTHS = (17, 9)  # two samples in one sequence: positions restart, attention stays within a sample
_PICTURES = 2


def language_difference(source: Path, checkpoint: Path, config: LanguageConfig, dtype: torch.dtype) -> float:
    """Compare logits of random tokens.

    Both sides hold the weights as they are stored and compute in float32, one after the other, so that one copy of the
    model is in memory at a time.

    Args:
        source: The model in Hugging Face layout.
        checkpoint: The converted checkpoint.
        config: Its architecture.
        dtype: Type that its parameters are stored in.

    Returns:
        The largest absolute difference over all tokens and the whole vocabulary.
    """
    generator = torch.Generator().manual_seed(_SEED)
    lengths = [min(length, config.max_position_embeddings) for length in _SAMPLE_LENGTHS]
    samples = [torch.randint(config.vocabulary_size, (length,), generator=generator) for length in lengths]
    expected = _transformers_logits(source, samples, dtype)
    model = LanguageModel(config, BuildSettings()).eval()
    load_part(model, checkpoint, "language")
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.no_grad():
        layout = packed_layout(cu_seqlens, positions, max(lengths))
        found = model.logits(model.run_packed(model.embed(torch.cat(samples)), positions, layout))
    return _largest(found[:, : config.vocabulary_size] - expected)


def vision_difference(source: Path, checkpoint: Path, config: VisionConfig, dtype: torch.dtype) -> float:
    """Compare the features of random pictures; see `language_difference`."""
    generator = torch.Generator().manual_seed(_SEED)
    pixels = torch.randn(_PICTURES, 3, config.image_size, config.image_size, generator=generator)
    expected = _transformers_features(source, pixels, config.feature_layer, dtype)
    tower = ClipVisionTower(config, BuildSettings()).eval()
    load_part(tower, checkpoint, "vision")
    with torch.no_grad():
        return _largest(tower(pixels) - expected)


def _transformers_logits(source: Path, samples: list[Tensor], dtype: torch.dtype) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=True).float().eval()
    with torch.no_grad():
        return torch.cat([model(sample[None]).logits[0] for sample in samples])


def _transformers_features(source: Path, pixels: Tensor, feature_layer: int, dtype: torch.dtype) -> Tensor:
    from transformers import CLIPVisionModel

    model = CLIPVisionModel.from_pretrained(source, dtype=dtype, local_files_only=True).float().eval()
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    features: Tensor = states[feature_layer][:, 1:]
    return features


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
