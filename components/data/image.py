"""Pictures: from a PIL image to stored uint8 pixels, and on the device to the vision tower's input.

Pixels travel as uint8 and are normalised on the device: a quarter of the bytes, and none of the loader's CPU time.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.data.decode import to_rgb
from components.data.image_settings import ImageSettings

_MAX_BYTE = 255.0
_LONG = 64
"""A picture is cropped before it is resized where one side is more than this many times the other."""


def preprocess(image: Image.Image, settings: ImageSettings) -> tuple[Tensor, tuple[int, int]]:
    """Bring a picture to the tower's size.

    Args:
        image: Picture of any size and mode; see `to_rgb`. Memory does not depend on its shape.
        settings: Size, layout and filter.

    Returns:
        Pixels, uint8 [3, size, size], and (height, width) in pixels of the top left area that holds the picture; the
        rest is padding. Resizing is PIL's.
    """
    size, resample = settings.size, Image.Resampling[settings.resample.upper()]
    rgb = to_rgb(image)
    width, height = rgb.size
    if settings.layout == "squash":
        return _to_tensor(_resize(rgb, size, size, resample)), (size, size)
    if settings.layout == "center_crop":
        return _to_tensor(_middle(rgb, size, resample)), (size, size)
    scale = size / max(width, height)
    valid_width, valid_height = max(1, round(width * scale)), max(1, round(height * scale))
    content = _to_tensor(_resize(rgb, valid_width, valid_height, resample))
    if (valid_height, valid_width) == (size, size):
        return content, (size, size)
    pixels = torch.zeros(3, size, size, dtype=torch.uint8)
    pixels[:, :valid_height, :valid_width] = content
    return pixels, (valid_height, valid_width)


def normalise(pixels: Tensor, valid: Tensor, settings: ImageSettings) -> Tensor:
    """Turn stored pixels into the vision tower's input, on the device that holds them.

    Args:
        pixels: uint8 [N, 3, size, size].
        valid: int [N, 2], height and width of the area that holds the picture, in pixels.
        settings: Mean and deviation.

    Returns:
        float32 [N, 3, size, size]; exactly zero outside the valid area.
    """
    mean = torch.tensor(settings.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.std, device=pixels.device).view(1, 3, 1, 1)
    values = (pixels.to(torch.float32) / _MAX_BYTE - mean) / std
    rows = torch.arange(pixels.shape[-2], device=pixels.device) < valid[:, 0:1].to(pixels.device)
    columns = torch.arange(pixels.shape[-1], device=pixels.device) < valid[:, 1:2].to(pixels.device)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, values, torch.zeros((), device=pixels.device))


def _resize(image: Image.Image, width: int, height: int, resample: Image.Resampling) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), resample)


def _middle(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Return the middle of a picture whose shorter side becomes `size`, as CLIP's processor cuts it.

    Of a very long picture only the middle is resized: 2 x 60,000 pixels would become 336 x 10,080,000. PIL keeps the place of
    a part in single precision, so that these pixels may be off by one.
    """
    shorter = min(image.size)
    # The longer side is rounded down; what is cut begins at a whole pixel of the resized picture.
    width, height = (size * side // shorter for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if max(image.size) <= _LONG * shorter:
        return _resize(image, width, height, resample).crop((left, top, left + size, top + size))
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    around = (  # a filter reaches at most two pixels beyond, or two of the result's where that is smaller
        max(0, math.floor(box[0] - 3 * max(x, 1))),
        max(0, math.floor(box[1] - 3 * max(y, 1))),
        min(image.width, math.ceil(box[2] + 3 * max(x, 1))),
        min(image.height, math.ceil(box[3] + 3 * max(y, 1))),
    )
    inner = (box[0] - around[0], box[1] - around[1], box[2] - around[0], box[3] - around[1])
    return image.crop(around).resize((size, size), resample, box=inner)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
