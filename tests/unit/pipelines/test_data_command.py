"""`vlm data`: what it says of a dataset, and its page of samples as the model sees them."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from components.data.image import preprocess
from components.look.image import image_settings_of
from pipelines.cli import main
from pipelines.preset_files import load_preset
from tests.support import table_datasets
from tests.support.data_samples import picture
from tests.support.html_pages import HOSTILE, parsed
from tests.support.table_datasets import rows_of

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_a_look_says_what_is_there(here: Path, capsys: Captured) -> None:
    rows = rows_of("cauldron", 40)
    rows[3]["texts"] = [{"user": HOSTILE, "assistant": "", "source": "x"}]
    rows[5]["images"] = []
    rows[6]["images"] = [{"bytes": b"not a picture", "path": "x"}]
    rows[8]["texts"] = [{"user": HOSTILE, "assistant": f"{HOSTILE} [INST] <s>", "source": "x"}]
    table_datasets.write_parquet(here / "data" / "train.parquet", rows)
    assert main(["data", (here / "data").as_uri(), "--samples", "10", "-o", "look.html"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "layout cauldron: images, texts" in output
    assert "rows 40 in 1 file" in output
    assert "looked at 40 rows, evenly spread; 38 samples" in output
    assert "can't be used 2: 1 broken picture, 1 not as the layout says" in output
    assert "several pictures 37" in output
    assert "without a picture 1" in output
    page = (here / "look.html").read_text()
    found = parsed(page)
    assert not any(tag in ("script", "link") for tag, _ in found.tags)
    assert sum(attributes.get("class") == "sample" for _, attributes in found.tags) == 10


def test_the_page_shows_what_training_gets(here: Path) -> None:
    """Pixels are those of the model's input; learnt is the answer with its end, given is the rest."""
    table_datasets.write_parquet(here / "x.parquet", rows_of("sharegpt", 5))
    assert main(["data", (here / "x.parquet").as_uri(), "--preset", "laptop"]) == 0
    page = (here / "data.html").read_text()
    learnt = re.findall(r'<span class="learnt">([^<]*)</span>', page.split("Samples as the model sees them")[1])
    assert [text.strip().removesuffix("&lt;/s&gt;").strip() for text in learnt[1:3]] == [
        "a red circle number 0", "no more"
    ]  # fmt: skip
    assert all("&lt;/s&gt;" in text for text in learnt[1:])
    config = load_preset("laptop")
    settings = image_settings_of(config.combine.image, config.weights)
    assert f"{settings.tokens} tokens of a picture" in page
    (uri, *_) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    shown = Image.open(io.BytesIO(base64.b64decode(uri)))
    pixels, _ = preprocess(Image.open(io.BytesIO(picture(0))), settings)
    expected = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert shown.tobytes() == expected.tobytes()


def test_pretraining_sees_captions_alone(here: Path, capsys: Captured) -> None:
    table_datasets.write_json_lines(here / "x.jsonl", rows_of("sharegpt", 5))
    assert main(["data", (here / "x.jsonl").as_uri(), "--stage", "pretrain"]) == 0
    assert "5 not in the plain format" in " ".join(capsys.readouterr().out.split())


def test_columns_are_mapped(here: Path, capsys: Captured) -> None:
    table_datasets.write_csv(
        here / "x.csv", [{"photo": table_datasets.stored(n), "alt": f"text {n}"} for n in range(3)]
    )
    source = (here / "x.csv").as_uri()
    assert main(["data", source]) == 1
    assert "which no layout knows" in capsys.readouterr().err
    assert main(["data", source, "--map", "image=photo", "--map", "caption=alt"]) == 0
    assert main(["data", source, "--map", "image"]) == 1
    assert "must have the form NAME=COLUMN" in capsys.readouterr().err
    assert main(["data", source, "--layout", "lava"]) == 1
    assert "there is no layout 'lava'" in capsys.readouterr().err


def test_a_source_that_is_none_says_so(here: Path, capsys: Captured) -> None:
    (here / "x.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": "x"}))
    assert main(["data", (here / "y.jsonl").as_uri()]) == 1
    assert "does not exist on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(("preset", "size", "tokens"), [("laptop", 64, 16), ("mistral-clip-7b", 336, 576)])
def test_picture_size_is_that_of_the_presets_tower(preset: str, size: int, tokens: int) -> None:
    config = load_preset(preset)
    settings = image_settings_of(config.combine.image, config.weights)
    assert (settings.size, settings.tokens) == (size, tokens)
