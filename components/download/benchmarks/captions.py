"""Benchmarks of captions."""

import json
import re

from components.download.benchmarks.benchmark import Annotations, Benchmark, Row, text


def _nocaps(raw: Row, number: int) -> Row:
    domain = text(raw.get("domain") or raw.get("image_domain"))
    return {"id": int(raw["image_id"]), "captions": list(raw["annotations_captions"]), "domain": domain}


def _nocaps_json(name: str, content: bytes) -> list[tuple[Row, str]]:
    """Read COCO's layout with `domain`."""
    truth = json.loads(content)
    captions: dict[int, list[str]] = {int(image["id"]): [] for image in truth["images"]}
    for row in truth["annotations"]:
        captions[int(row["image_id"])].append(row["caption"])
    return [
        (
            {"id": int(image["id"]), "captions": captions[int(image["id"])], "domain": text(image.get("domain"))},
            image["file_name"],
        )
        for image in truth["images"]
    ]


def _flickr30k(raw: Row, number: int) -> Row | None:
    if raw["split"] != "test":  # Karpathy's; the dataset's own split "test" has all pictures
        return None
    return {"id": int(raw["img_id"]), "captions": list(raw["caption"]), "domain": ""}


NOCAPS = Benchmark(
    re.compile(r"(^|/)validation-[^/]*\.parquet$"),
    _nocaps,
    expected="image, image_id, annotations_captions",
    captions=True,
    annotated=Annotations(re.compile(r"nocaps_val_\w*\.json$"), _nocaps_json),
)
FLICKR30K = Benchmark(
    re.compile(r"(^|/)test-[^/]*\.parquet$"), _flickr30k, expected="image, img_id, caption, split", captions=True
)
