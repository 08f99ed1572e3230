"""What a published tower says of its pictures: mean, deviation and filter from `preprocessor_config.json`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import ValidationError

from components.data.image_settings import PixelSettings, Resample
from components.errors import InputError
from components.model.families.vision.family import VisionFamily

PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
"""Where transformers 5 writes a whole processor, the image processor within it."""

_FILTERS: Mapping[object, Resample] = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
_BYTE = 1 / 255

PixelSource = Literal["preprocessor_config.json", "processor_config.json", "the family's own"]


def read_pixels(folder: Path, family: VisionFamily) -> tuple[PixelSettings, PixelSource]:
    """Read how a tower's pictures are resized and normalised.

    What a file leaves out is filled as transformers fills it. The size is not asked for: the tower's `config.json` has it.

    Args:
        folder: The tower as it was published.
        family: Its family.

    Returns:
        The settings and where they are from: `preprocessor_config.json`, else the image processor within
        `processor_config.json`, else the family.

    Raises:
        InputError: A file is damaged, or says what this project does not do.
    """
    found = _image_processor(folder)
    if found is None:
        return family.pixels, "the family's own"
    content, name = found
    return _pixels(content, family, str(folder / name)), name


def _image_processor(
    folder: Path,
) -> tuple[Mapping[str, Any], Literal["preprocessor_config.json", "processor_config.json"]] | None:
    if (folder / PREPROCESSOR_FILE).is_file():
        return _read(folder / PREPROCESSOR_FILE), "preprocessor_config.json"
    if (folder / PROCESSOR_FILE).is_file():
        inner = _read(folder / PROCESSOR_FILE).get("image_processor")
        if isinstance(inner, Mapping):
            return inner, "processor_config.json"
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    return content


def _pixels(content: Mapping[str, Any], family: VisionFamily, source: str) -> PixelSettings:
    given = {key: content[key] for key in ("image_mean", "image_std", "resample") if content.get(key) is not None}
    kind = content.get("image_processor_type") or content.get("feature_extractor_type")
    if len(given) < 3 and kind is not None and _base(str(kind)) != _base(family.image_processor):
        missing = ", ".join(key for key in ("image_mean", "image_std", "resample") if key not in given)
        raise InputError(
            f"{source} has no {missing}, and is of a {kind}, whose defaults are not those of a "
            f"{family.image_processor}. Add what is missing."
        )
    factor = content.get("rescale_factor", _BYTE)
    if content.get("do_rescale", True) is False or not _is_byte(factor):
        raise InputError(
            f"{source} does not bring pixels to 0..1 (do_rescale, rescale_factor); only a factor of 1/255 is supported."
        )
    return _checked(given, family.pixels, source, normalise=content.get("do_normalize", True) is not False)


def _checked(given: Mapping[str, Any], own: PixelSettings, source: str, *, normalise: bool) -> PixelSettings:
    resample = _resample(given["resample"], source) if "resample" in given else own.resample
    if not normalise:
        return PixelSettings(mean=(0, 0, 0), std=(1, 1, 1), resample=resample)
    try:
        return PixelSettings(
            mean=_channels(given.get("image_mean", own.mean)),
            std=_channels(given.get("image_std", own.std)),
            resample=resample,
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise InputError(f"{source} has an image_mean or image_std that can't be used: {problems}.") from error


def _resample(number: Any, source: str) -> Resample:
    try:
        return _FILTERS[Image.Resampling(number)]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{source} resizes with PIL's filter {number!r} (resample); supported are 2 (bilinear) and 3 (bicubic)."
        ) from error


def _channels(value: Any) -> Any:
    """Return three values; one number stands for three, as in transformers."""
    return (value,) * 3 if isinstance(value, int | float) else value


def _is_byte(factor: object) -> bool:
    return isinstance(factor, int | float) and math.isclose(factor, _BYTE, rel_tol=1e-6)


def _base(name: str) -> str:
    """Return what the names of one image processor's classes have in common: older and faster ones, with PIL or without."""
    return name.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
