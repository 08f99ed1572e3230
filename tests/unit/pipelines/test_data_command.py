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
from tests.support.chat_families import CHATS
from tests.support.chats import prepared
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


def test_tokens_are_those_of_the_presets_language_model(here: Path, capsys: Captured) -> None:
    """Of a published one in its own chat template, of a run's model folder, and of random weights in those of their family."""
    table_datasets.write_parquet(here / "x.parquet", rows_of("questions", 6))
    publish, facts = CHATS["qwen 2.5"]
    publish(here / "published")
    (here / "published" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    settings = json.loads((here / "published" / "tokenizer_config.json").read_text())
    (here / "published" / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (here / "published" / "tokenizer_config.json").write_text(json.dumps(settings))
    prepared(here / "published", here / "run" / "tokenizer", facts)
    lengths = set()
    for words, said in (
        (("--set", f"weights.language_source={(here / 'published').as_uri()}"), f"of {(here / 'published').as_uri()}"),
        (("--tokenizer", str(here / "run")), f"of the run's {here / 'run' / 'tokenizer'}"),
    ):
        assert main(["data", (here / "x.parquet").as_uri(), "--preset", "laptop", *words]) == 0
        assert said in capsys.readouterr().out.replace("\n", "").replace(" " * 12, "")
        page = (here / "data.html").read_text()
        assert "&lt;|im_start|&gt;system\nYou are Qwen" in page
        lengths.add(re.sub(r"a tokenizer of [^.]*", "", page))
    assert len(lengths) == 1
    family = ("--set", "weights.language.family=qwen2")
    assert main(["data", (here / "x.parquet").as_uri(), "--preset", "laptop", *family]) == 0
    assert "of the family qwen2" in capsys.readouterr().out
    assert "&lt;|im_start|&gt;" in (here / "data.html").read_text()


def test_a_tokenizer_that_can_not_be_had(here: Path, capsys: Captured) -> None:
    table_datasets.write_parquet(here / "x.parquet", rows_of("questions", 6))
    away = ("--set", f"weights.language_source={(here / 'away').as_uri()}")
    assert main(["data", (here / "x.parquet").as_uri(), "--preset", "laptop", *away]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "The tokenizer of the preset's language model can't be had" in said
    assert "--tokenizer" in said


@pytest.mark.parametrize(("preset", "size", "tokens"), [("laptop", 64, 16), ("mistral-clip-7b", 336, 576)])
def test_picture_size_is_that_of_the_presets_tower(preset: str, size: int, tokens: int) -> None:
    config = load_preset(preset)
    settings = image_settings_of(config.combine.image, config.weights)
    assert (settings.size, settings.tokens) == (size, tokens)
