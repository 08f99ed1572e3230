"""Stretched frequencies of the rotary embedding."""

import math

import torch
from torch import Tensor

from components.model.config import RotaryScaling


def stretched(frequencies: Tensor, scaling: RotaryScaling) -> Tensor:
    """Stretch the slow frequencies for a longer context.

    Wavelengths that fit into the original context many times stay as they are, those that hardly fit are stretched by the
    factor, and between the two it is mixed. Source: Llama 3.1's reference code (`apply_scaling`).

    Args:
        frequencies: Angle per position, in radians, [head width / 2].
        scaling: By how much, and where.
    """
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # within the original context
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return torch.lerp(frequencies / scaling.factor, frequencies, kept)
