"""Pictures: from a PIL image to stored uint8 pixels, and on the device to the vision tower's input.

Pixels travel as uint8 and are normalised on the device: a quarter of the bytes, and none of the loader's CPU time.
"""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from components.data.image_settings import ImageSettings

_MAX_BYTE = 255.0
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = 1


def preprocess(image: Image.Image, settings: ImageSettings) -> tuple[Tensor, tuple[int, int]]:
    """Bring a picture to the tower's size.

    Args:
        image: Picture of any size and mode; see `to_rgb`.
        settings: Size and layout.

    Returns:
        Pixels, uint8 [3, size, size], and (height, width) in pixels of the top left area that holds the picture; the
        rest is padding. Resizing is PIL's bicubic.
    """
    size = settings.size
    rgb = to_rgb(image)
    width, height = rgb.size
    if settings.layout == "squash":
        return _to_tensor(_resize(rgb, size, size)), (size, size)
    if settings.layout == "center_crop":
        # The longer side is rounded down and the middle is cut as CLIP's processor does it.
        shorter = min(width, height)
        resized = _resize(rgb, size * width // shorter, size * height // shorter)
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return _to_tensor(resized.crop((left, top, left + size, top + size))), (size, size)
    scale = size / max(width, height)
    valid_width, valid_height = max(1, round(width * scale)), max(1, round(height * scale))
    content = _to_tensor(_resize(rgb, valid_width, valid_height))
    if (valid_height, valid_width) == (size, size):
        return content, (size, size)
    pixels = torch.zeros(3, size, size, dtype=torch.uint8)
    pixels[:, :valid_height, :valid_width] = content
    return pixels, (valid_height, valid_width)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB and upright, as transformers loads it for its processors.

    An EXIF orientation is applied. Transparency is dropped: hidden colours show. Palettes, grey and CMYK are converted by
    PIL. Of 16 bit grey the upper eight are kept, as PIL does with 16 bit colour; its own conversion would make all but the
    darkest values white.
    """
    if image.getexif().get(_EXIF_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
