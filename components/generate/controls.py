"""Controls: what the model is shown instead of a sample's own picture."""

import random
from collections.abc import Sequence

from PIL import Image

from components.errors import InputError

# The middle of the range: a picture without any content, whatever the normalisation.
BLANK_GREY = 128
BLANK_SIDE = 336
"""Side of the blank picture in pixels, for models that take any size."""


def blank_like(size: tuple[int, int]) -> Image.Image:
    """Return a uniform grey picture of (width, height) pixels."""
    return Image.new("RGB", size, (BLANK_GREY, BLANK_GREY, BLANK_GREY))


def other_pictures(images: Sequence[str], seed: int) -> list[str]:
    """Give every sample the picture of another one.

    The pictures are a permutation of the given ones, so that the control sees the same pictures as often; none is
    a sample's own, even where several samples ask about one picture. The result depends on the whole set and the seed
    alone, never on partitions.

    Args:
        images: Picture of every sample of the whole set.
        seed: Decides the permutation.

    Returns:
        The picture that each sample is shown, in the same order.

    Raises:
        InputError: More than half of the samples ask about one picture, so that no such permutation exists.
    """
    # Samples of one picture are laid side by side; a shift by the largest such group moves every sample out of its own.
    groups: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(image, []).append(row)
    shift = max((len(rows) for rows in groups.values()), default=0)
    if 2 * shift > len(images):
        raise InputError(
            f"{shift} of {len(images)} samples ask about one picture, so that they can't all be shown another one. "
            'Leave "shuffled" out of controls or use more samples.'
        )
    generator = random.Random(seed)
    names = sorted(groups)
    generator.shuffle(names)
    order = [row for name in names for row in groups[name]]
    shown = [""] * len(images)
    for place, row in enumerate(order):
        shown[row] = images[order[(place + shift) % len(order)]]
    return shown
