"""Preprocessing, against transformers, PIL and plain arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from components.data.image import normalise, preprocess
from components.data.image_settings import ImageLayout, ImageSettings, Resample
from components.model.families.vision.clip import CLIP
from components.model.families.vision.pixels import read_pixels
from components.model.families.vision.siglip import SIGLIP

TINY = ImageSettings(size=3, patch=3)
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 31), (64, 64), (200, 1), (500, 300)])
@pytest.mark.parametrize("layout", ["pad", "squash", "center_crop"])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_matches_pil(width: int, height: int, layout: ImageLayout, resample: Resample) -> None:
    size = 64
    image = _noise(width, height)
    pixels, valid = preprocess(image, ImageSettings(size=size, patch=16, layout=layout, resample=resample))
    pil = Image.Resampling[resample.upper()]
    if layout == "squash":
        expected, area = image.resize((size, size), pil), (size, size)
    elif layout == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        expected = Image.new("RGB", (size, size))
        expected.paste(image.resize(inner, pil), (0, 0))
        area = (inner[1], inner[0])
    else:
        scale = size / min(width, height)
        big = image.resize((int(width * scale), int(height * scale)), pil)
        left, top = (big.width - size) // 2, (big.height - size) // 2
        expected, area = big.crop((left, top, left + size, top + size)), (size, size)
    assert valid == area
    assert pixels.dtype == torch.uint8
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 1


def test_normalise_is_clips_and_zero_in_the_padding() -> None:
    clip = ImageSettings(size=32, patch=16)
    pictures = [preprocess(_noise(*size), clip) for size in ((40, 20), (20, 40), (32, 32))]
    pixels = torch.stack([picture[0] for picture in pictures])
    valid = torch.tensor([picture[1] for picture in pictures])
    values = normalise(pixels, valid, clip)
    assert values.dtype == torch.float32
    for number, (height, width) in enumerate(valid.tolist()):
        source = pixels[number, :, :height, :width].permute(1, 2, 0).numpy() / 255
        expected = (source - CLIP_MEAN) / CLIP_STD
        np.testing.assert_allclose(values[number, :, :height, :width].permute(1, 2, 0).numpy(), expected, atol=1e-5)
        assert values[number, :, height:].abs().sum() == 0
        assert values[number, :, :, width:].abs().sum() == 0
    assert valid.tolist() == [[16, 32], [32, 16], [32, 32]]


def test_no_pictures() -> None:
    none = torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, 2, dtype=torch.int64)
    values = normalise(*none, ImageSettings(size=32, patch=16))
    assert values.shape == (0, 3, 32, 32)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])  # those with alpha are opaque
def test_any_mode_becomes_rgb(mode: str) -> None:
    image = _noise(16, 16).convert("L").convert(mode) if mode in ("1", "LA") else _noise(16, 16, mode)
    pixels, _ = preprocess(image, ImageSettings(size=16, patch=8))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


SIDES = st.integers(1, 130)


@settings(deadline=None, max_examples=100)
@given(SIDES, SIDES, st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "CMYK", "1"]), st.sampled_from([16, 64, 98]))
def test_center_crop_is_clips_processor(width: int, height: int, mode: str, size: int) -> None:
    image = _noise(width, height)
    image = image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    image_settings = ImageSettings(size=size, patch=2, layout="center_crop")
    pixels, valid = preprocess(image, image_settings)
    found = normalise(pixels[None], torch.tensor([valid]), image_settings)[0].numpy()
    # One step of 255 would be 0.014; this is float rounding.
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_transformers_does(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    _noise(24, 16).save(path, exif=exif)
    expected = np.asarray(load_image(str(path)))
    pixels, valid = preprocess(Image.open(path), ImageSettings(size=24, patch=8))
    assert valid == expected.shape[:2]
    assert np.array_equal(pixels[:, : valid[0], : valid[1]].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I"])
def test_16_bit_grey_keeps_its_upper_bits(kind: str) -> None:
    values = np.array([[0, 255, 256], [32768, 40000, 65535]])
    image = Image.fromarray(values.astype(np.int32 if kind == "I" else np.uint16))
    pixels, _ = preprocess(image if kind != "I;16B" else image.convert("I").convert("I;16B"), TINY)
    assert pixels[:, :2, :3].tolist() == [(values >> 8).tolist()] * 3


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["RGBA", "LA", "PA", "P", "L", "RGB"]), st.integers(0, 10_000))
def test_transparency_is_what_transformers_makes_of_it(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA")
    if mode in ("P", "L", "RGB"):
        image = image.convert("RGB").quantize(8) if mode == "P" else image.convert(mode)
        first = image.getpixel((0, 0))
        image.info["transparency"] = first
    elif mode == "PA":
        image = image.convert("LA").convert("PA")
    else:
        image = image.convert(mode)
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    pixels, _ = preprocess(image, ImageSettings(size=8, patch=8))
    assert np.array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (2, 60_000), (3, 20_000)])
def test_extreme_shapes_are_cropped_before_they_are_resized(size: tuple[int, int]) -> None:
    rows = Image.fromarray(
        np.tile(np.arange(max(size), dtype=np.uint32)[:, None] % 251, (1, min(size))).astype(np.uint8)
    )
    image = rows if size[1] > size[0] else rows.transpose(Image.Transpose.ROTATE_90)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels, _ = preprocess(image, ImageSettings(size=336, patch=14, layout="center_crop"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; it was two million
    assert pixels.shape == (3, 336, 336)


@pytest.mark.parametrize("size", [(3, 200), (300, 4), (9, 700)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_cropping_first_shows_what_cropping_last_shows(size: tuple[int, int], resample: Resample) -> None:
    image, side = _noise(*size), 48
    longer = tuple(side * edge // min(size) for edge in size)
    left, top = ((edge - side) // 2 for edge in longer)
    whole = image.resize(longer, Image.Resampling[resample.upper()]).crop((left, top, left + side, top + side))
    pixels, _ = preprocess(image, ImageSettings(size=side, patch=16, layout="center_crop", resample=resample))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(whole).astype(int)).max() <= 2


PUBLISHED = {
    # openai/clip-vit-large-patch14-336
    "CLIP": {
        "crop_size": 336, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 336,
    },
    # google/siglip-so400m-patch14-384
    "SigLIP": {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 384, "width": 384},
    },
    # google/siglip2-base-patch16-224
    "SigLIP 2": {
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor", "resample": 2, "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    },
}  # fmt: skip
"""`preprocessor_config.json` as published."""


@pytest.mark.parametrize(("tower", "size"), [("CLIP", 336), ("SigLIP", 384), ("SigLIP 2", 224)])
def test_published_settings_give_the_pixels_of_transformers(tower: str, size: int, tmp_path: Path) -> None:
    family = CLIP if tower == "CLIP" else SIGLIP
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED[tower]))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels, source = read_pixels(tmp_path, family)
    assert source == "preprocessor_config.json"
    assert type(processor).__name__ == f"{family.image_processor}Pil"
    image_settings = ImageSettings(**pixels.model_dump(), size=size, patch=14, layout=family.layout)
    for sides in ((640, 427), (97, 61), (384, 384), (300, 1000), (1, 50)):
        image = _noise(*sides)
        expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        stored, valid = preprocess(image, image_settings)
        found = normalise(stored[None], torch.tensor([valid]), image_settings)[0].numpy()
        assert np.abs(found - expected).max() <= 1e-5, sides  # one step of 255 would be 0.008


def test_settings_are_checked() -> None:
    assert ImageSettings(size=336, patch=14).tokens == 576
    assert ImageSettings(size=336, patch=14, pixel_shuffle=2).tokens == 144
    assert ImageSettings(size=384, patch=14).tokens == 27 * 27
    with pytest.raises(ValueError, match="size 15 is less than patch 16"):
        ImageSettings(size=15, patch=16)
    with pytest.raises(ValueError, match="does not divide the 27 x 27 patches .* set it to one of 1, 3, 9, 27, or"):
        ImageSettings(size=384, patch=14, pixel_shuffle=2)
    with pytest.raises(ValueError, match="std must be positive"):
        ImageSettings(size=32, patch=16, std=(1, 0, 1))
