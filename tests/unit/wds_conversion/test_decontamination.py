"""No test picture in training: found by name, bytes, pixels and looks."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.progress import Progress
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import convert
from tests.support import data_samples

COUNT = 30


def photo(number: int) -> Image.Image:
    """Draw something with edges and shades, another one for every number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (240, 200), Image.Resampling.BICUBIC
    )
    for _ in range(6):
        x, y = int(rng.integers(0, 200)), int(rng.integers(0, 160))
        coarse.paste(tuple(int(value) for value in rng.integers(0, 256, 3)), (x, y, x + 30, y + 24))
    return coarse


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SAME: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "bytes": ("bytes", lambda content: content),
    "losslessly": ("pixels", lambda content: encoded(Image.open(io.BytesIO(content)), "PNG")),
    "quality 50": ("near", lambda content: encoded(Image.open(io.BytesIO(content)), quality=50)),
    "half the size": ("near", lambda content: encoded(Image.open(io.BytesIO(content)).resize((120, 100)))),
    "cropped": ("near", lambda content: encoded(Image.open(io.BytesIO(content)).crop((6, 5, 234, 195)))),
}


def make_raw(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """Make a raw dataset whose pictures 3 and 7 are the evaluation's under other names."""
    entries = [data_samples.caption_entry(number) for number in range(COUNT)]
    test = {f"test/{number}.jpg": encoded(photo(1000 + number), quality=92) for number in range(5)}
    pictures = {entry["image"]: encoded(photo(number)) for number, entry in enumerate(entries)}
    pictures[entries[3]["image"]] = change(test["test/1.jpg"])
    pictures[entries[7]["image"]] = change(test["test/2.jpg"])
    folder.mkdir(parents=True)
    (folder / "pretrain.json").write_text(json.dumps(entries))
    (folder / "evaluation_pictures.json").write_text(json.dumps({"captioning.json": sorted(test)}))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, content in {**pictures, **test}.items():
            archive.writestr(name, content)
    return folder


def run(raw: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"annotations": "pretrain.json", "prefix": "pretrain", "samples_per_shard": 3, **changes}
    folder.mkdir(parents=True)
    return convert(raw, folder, WdsConversionConfig(**settings), 1, Progress("test")).facts


def listed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "test_pictures_seen.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", SAME)
def test_test_pictures_are_left_out_counted_and_listed(kind: str, tmp_path: Path) -> None:
    likeness, change = SAME[kind]
    facts = run(make_raw(tmp_path / "raw", change), tmp_path / "out")
    found = {"bytes": 0, "pixels": 0, "near": 0} | {likeness: 2}
    counts = facts["decontamination"]
    assert (counts["mode"], counts["test_pictures"], counts["found"]) == ("drop", 5, found)
    assert (counts["samples_left_out"], counts["test_pictures_seen"]) == (2, 0)
    assert (facts["samples"], facts["left_out"], facts["rejected"]) == (COUNT - 2, {"test_picture": 2}, 0)
    rows = listed(tmp_path / "out")
    assert [row["test_picture"] for row in rows] == ["test/1.jpg", "test/2.jpg"]
    assert not any(row["trained_on"] for row in rows)
    assert not (tmp_path / "out" / "test_pictures").exists()


def test_report_keeps_them_and_off_does_not_look(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", SAME["quality 50"][1])
    facts = run(raw, tmp_path / "report", decontaminate="report")
    assert (facts["samples"], facts["left_out"]) == (COUNT, {})
    assert facts["decontamination"]["test_pictures_seen"] == 2
    assert all(row["trained_on"] for row in listed(tmp_path / "report"))
    facts = run(raw, tmp_path / "off", decontaminate=False)
    assert (facts["samples"], facts["decontamination"]) == (COUNT, {"mode": "off"})


def test_without_evaluation_data_nothing_is_found(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", SAME["bytes"][1])
    (raw / "evaluation_pictures.json").unlink()
    facts = run(raw, tmp_path / "out")
    assert facts["samples"] == COUNT
    assert facts["decontamination"]["test_pictures"] == 0


def test_a_demo_loses_nothing(tmp_path: Path) -> None:
    """Drawings on plain backgrounds look alike to a perceptual hash; the held-out ones differ in what they show."""
    from components.context import RunContext
    from components.download.config import DatasetConfig, ScenesConfig
    from components.download.stage import run_download_dataset

    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    scenes = DatasetConfig(scenes=ScenesConfig(pictures=300, held_out_pictures=60))
    facts = run(run_download_dataset(context, scenes).folder, tmp_path / "out")
    assert facts["samples"] == 300
    assert facts["decontamination"]["found"] == {"bytes": 0, "pixels": 0, "near": 0}
