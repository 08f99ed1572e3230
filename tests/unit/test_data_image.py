"""Preprocessing, against PIL and plain arithmetic."""

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.image import normalise, preprocess
from components.data.image_settings import ImageSettings

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 31), (64, 64), (200, 1), (500, 300)])
@pytest.mark.parametrize("layout", ["pad", "squash", "center_crop"])
def test_matches_pil(width: int, height: int, layout: str) -> None:
    size = 64
    image = _noise(width, height)
    pixels, valid = preprocess(image, ImageSettings(size=size, patch=16, layout=layout))  # type: ignore[arg-type]
    if layout == "squash":
        expected, area = image.resize((size, size), Image.Resampling.BICUBIC), (size, size)
    elif layout == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        expected = Image.new("RGB", (size, size))
        expected.paste(image.resize(inner, Image.Resampling.BICUBIC), (0, 0))
        area = (inner[1], inner[0])
    else:
        scale = size / min(width, height)
        big = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        left, top = (big.width - size) // 2, (big.height - size) // 2
        expected, area = big.crop((left, top, left + size, top + size)), (size, size)
    assert valid == area
    assert pixels.dtype == torch.uint8
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 1


def test_normalise_is_clips_and_zero_in_the_padding() -> None:
    settings = ImageSettings(size=32, patch=16)
    pictures = [preprocess(_noise(*size), settings) for size in ((40, 20), (20, 40), (32, 32))]
    pixels = torch.stack([picture[0] for picture in pictures])
    valid = torch.tensor([picture[1] for picture in pictures])
    values = normalise(pixels, valid, settings)
    assert values.dtype == torch.float32
    for number, (height, width) in enumerate(valid.tolist()):
        source = pixels[number, :, :height, :width].permute(1, 2, 0).numpy() / 255
        expected = (source - CLIP_MEAN) / CLIP_STD
        np.testing.assert_allclose(values[number, :, :height, :width].permute(1, 2, 0).numpy(), expected, atol=1e-5)
        assert values[number, :, height:].abs().sum() == 0
        assert values[number, :, :, width:].abs().sum() == 0
    assert valid.tolist() == [[16, 32], [32, 16], [32, 32]]


def test_no_pictures() -> None:
    settings = ImageSettings(size=32, patch=16)
    values = normalise(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, 2, dtype=torch.int64), settings)
    assert values.shape == (0, 3, 32, 32)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    image = _noise(16, 16).convert("L").convert(mode) if mode in ("1", "LA") else _noise(16, 16, mode)
    pixels, _ = preprocess(image, ImageSettings(size=16, patch=8))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_settings_are_checked() -> None:
    assert ImageSettings(size=336, patch=14).tokens == 576
    with pytest.raises(ValueError, match="multiple of patch"):
        ImageSettings(size=30, patch=16)
    with pytest.raises(ValueError, match="std must be positive"):
        ImageSettings(size=32, patch=16, std=(1, 0, 1))
