"""What a published tower says of its pictures, against transformers' reading of the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPImageProcessorPil, CLIPProcessor, PreTrainedTokenizerFast, SiglipImageProcessorPil

from components.data.image_settings import PixelSettings
from components.errors import InputError
from components.model.families.vision.family import VisionFamily
from components.model.families.vision.pixels import read_pixels
from components.model.families.vision.registry import VISION_FAMILIES
from tests.support.model_world import tokenizer

PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}
NAMES = {2: "bilinear", 3: "bicubic"}


def of(processor: Any) -> PixelSettings:
    return PixelSettings(mean=processor.image_mean, std=processor.image_std, resample=NAMES[processor.resample])  # type: ignore[arg-type]


@pytest.fixture(params=PROCESSORS)
def family(request: pytest.FixtureRequest) -> VisionFamily:
    return VISION_FAMILIES[request.param]


def write(folder: Path, **content: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


def test_every_family_has_a_row() -> None:
    assert PROCESSORS.keys() == VISION_FAMILIES.keys()


def test_without_a_file_it_is_what_transformers_class_does(family: VisionFamily, tmp_path: Path) -> None:
    default = PROCESSORS[family.name]()
    assert read_pixels(tmp_path, family) == (of(default), "the family's own")
    assert family.image_processor == type(default).__name__.removesuffix("Pil")
    own = {"center_crop": {"shortest_edge": 224}, "squash": {"height": 224, "width": 224}}
    assert dict(default.size) == own[family.layout]


@pytest.mark.parametrize("changes", [{}, {"resample": 2}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}])
def test_what_a_file_says_counts(family: VisionFamily, changes: dict[str, Any], tmp_path: Path) -> None:
    processor = PROCESSORS[family.name](**changes)
    processor.save_pretrained(tmp_path)
    assert read_pixels(tmp_path, family) == (of(processor), "preprocessor_config.json")
    write(tmp_path, **changes)
    assert read_pixels(tmp_path, family)[0] == of(processor)


def test_a_whole_processors_file_counts(tmp_path: Path) -> None:
    image_processor = CLIPImageProcessorPil(resample=2, image_mean=[0.1, 0.2, 0.3])
    tokenizer(tmp_path)
    words = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    CLIPProcessor(image_processor=image_processor, tokenizer=words).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert read_pixels(tmp_path, VISION_FAMILIES["clip"]) == (of(image_processor), "processor_config.json")


def test_one_number_stands_for_three_and_no_normalisation_for_none(tmp_path: Path) -> None:
    family = VISION_FAMILIES["siglip"]
    write(tmp_path, image_mean=0.25, image_std=0.5)
    assert read_pixels(tmp_path, family)[0] == PixelSettings(mean=(0.25,) * 3, std=(0.5,) * 3)
    write(tmp_path, do_normalize=False)
    assert read_pixels(tmp_path, family)[0] == PixelSettings(mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ({"resample": 1}, r"filter 1 \(resample\).*2 \(bilinear\) and 3 \(bicubic\)"),
        ({"resample": "lanczos"}, "filter 'lanczos'"),
        ({"do_rescale": False}, "0..1"),
        ({"rescale_factor": 1 / 127.5}, "0..1"),
        ({"image_mean": [0.5]}, "image_mean or image_std that can't be used: mean"),
        ({"image_std": [0.5, 0, 0.5]}, "std must be positive"),
        (
            {"image_processor_type": "ViTImageProcessor", "resample": 2},
            "no image_mean, image_std, and is of a ViTImage",
        ),
    ],
)
def test_what_can_not_be_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_pixels(tmp_path, VISION_FAMILIES["siglip"])
