"""Datasets as people have them: names in several spellings, cut texts, near-equal captions, files that are something else."""

import gzip
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.context import RunContext
from components.download.config import DatasetConfig, FolderConfig, PictureSource, TrainingSource
from components.download.stage import run_download_dataset
from components.errors import InputError
from components.stage.runner import StageOutput
from components.tasks.kinds.letters import read_option_text
from components.tasks.template import LETTERS
from tests.unit.download.test_folder import download, entry, images, lines, load, make_folder, picture

Spelling = Callable[[str], str]
SPELLINGS: dict[str, Spelling] = {
    "./": lambda name: f"./{name}",
    "images/": lambda name: f"images/{name}",
    "backslashes": lambda name: name.replace("/", "\\"),
    "two slashes": lambda name: name.replace("/", "//"),
}


def respelled(number: int, spell: Spelling) -> dict[str, Any]:
    return entry(number, image=spell(entry(number)["image"]))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_held_out_picture_is_held_out_in_every_spelling(spelling: str, zipped: bool, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(30)], zipped=zipped, prefix="images/")
    conversations = [respelled(number, SPELLINGS[spelling]) for number in range(30)]
    (source / "sft.json").write_text(json.dumps(conversations))
    folder = download(source, tmp_path).folder
    held_out = {image["file_name"] for image in load(folder / "captioning.json")["images"]}
    assert len(held_out) == 6
    assert len(load(folder / "sft.json")) == 24
    assert images(folder / "sft.json") == images(folder / "pretrain.json")
    assert not held_out & images(folder / "sft.json")
    assert load(folder / "dataset.json")["counts"]["pictures"] == 30


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_with_accents_are_found_however_they_are_stored(stored: str, zipped: bool, tmp_path: Path) -> None:
    form = {"NFC": "NFD", "NFD": "NFC"}[stored]
    entries = [entry(number, image=unicodedata.normalize(stored, f"été-{number}.png")) for number in range(20)]  # type: ignore[arg-type]
    source = make_folder(tmp_path / "data", entries, zipped=zipped)
    for item in entries:
        item["image"] = unicodedata.normalize(form, item["image"])  # type: ignore[arg-type]
    (source / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(entries))
    assert download(source, tmp_path).manifest.facts["rejected_entries"] == 0


def test_two_pictures_whose_names_differ_in_spelling_alone_are_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(20)])
    with zipfile.ZipFile(source / "images.zip", "a") as archive:
        archive.writestr("./" + entry(3)["image"], picture(4))
    with pytest.raises(InputError, match="spelling alone"):
        download(source, tmp_path)


CUT = "nice \ud83d"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("pretrain.json", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": CUT}]}),
        ("pretrain.json", {"conversations": [{"from": "human", "value": CUT}, {"from": "gpt", "value": "a"}]}),
        ("pretrain.json", {"id": CUT}),
        ("pretrain.json", {"image": CUT}),
        ("sft.json", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": CUT}]}),
        ("sft.json", {"source": CUT}),
        ("sft.json", {"image": CUT}),
    ],
)
def test_text_that_was_cut_within_a_character_is_a_reject(file: str, changes: dict[str, Any], tmp_path: Path) -> None:
    entries = [entry(number) for number in range(30)]
    source = make_folder(tmp_path / "data", entries)
    (source / "sft.json").write_text(json.dumps(entries))
    name = "blip_laion_cc_sbu_558k.json" if file == "pretrain.json" else file
    (source / name).write_text(json.dumps([*entries[:-1], entry(29, **changes)]))
    folder = download(source, tmp_path, max_reject_share=0.05).folder
    (reject,) = lines(folder / "rejects.jsonl")
    assert (reject["part"], reject["file"], reject["row"]) == (file.removesuffix(".json"), name, 29)
    assert "surrogate" in reject["reason"] or "is not in" in reject["reason"]


@pytest.mark.parametrize("image", [None, "", []])
def test_conversations_without_a_picture(image: object, tmp_path: Path) -> None:
    entries = [entry(number) for number in range(20)]
    source = make_folder(tmp_path / "data", entries)
    text = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "that"}]
    (source / "sft.json").write_text(json.dumps([*entries, entry(99, image=image, conversations=text)]))
    assert load(download(source, tmp_path).folder / "sft.json")[-1] == {"id": "00099", "conversations": text}


def test_a_list_of_one_picture_is_that_picture(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(20)])
    listed = [entry(number, image=[entry(number)["image"]]) for number in range(20)]
    (source / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(listed))
    assert download(source, tmp_path).manifest.facts["rejected_entries"] == 0


def test_files_of_one_base_name_are_counted_apart(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(300)])
    (source / "a").mkdir()
    (source / "b").mkdir()
    broken = [entry(number, image="none.png" if number < 3 else entry(number)["image"]) for number in range(300)]
    (source / "a" / "train.json").write_text(json.dumps(broken))
    (source / "b" / "train.json").write_text(json.dumps([entry(number) for number in range(100, 150)]))
    pictures = (PictureSource(uri=(source / "images.zip").as_uri()),)
    config = DatasetConfig(
        source="named://",
        folder=FolderConfig(held_out_pictures=6),
        pretrain=TrainingSource(annotations=(source / "a" / "train.json").as_uri(), images=pictures),
        sft=TrainingSource(annotations=(source / "b" / "train.json").as_uri(), images=pictures),
    )
    output = run_download_dataset(RunContext(run_id="t", run_name="t", workspace=tmp_path), config)
    assert [reject["part"] for reject in lines(output.folder / "rejects.jsonl")] == ["pretrain"] * 3


SAME = ["a dog on grass", "A dog on grass.", "A  dog, on grass", "a dog on grass."]


@pytest.mark.parametrize("form", ["letter", "text"])
def test_no_question_has_two_right_options(form: str, tmp_path: Path) -> None:
    texts = [*SAME, "a cat", "A cat.", "two boats", "TWO BOATS!", "a red bus", "a house", "a tree"]
    entries = [entry(number) for number in range(44)]
    for number, item in enumerate(entries):
        item["conversations"][1]["value"] = texts[number % len(texts)]
    folder = download(make_folder(tmp_path / "data", entries), tmp_path, held_out=20, answer_form=form).folder
    questions = lines(folder / "multiple_choice.jsonl")
    assert len(questions) == 20
    for row in questions:
        assert len({said(option) for option in row["options"]}) == 4
        right = row["options"][LETTERS.index(row["answer"])]
        assert read_option_text(right, row["options"]) == row["answer"]
    for item in load(folder / "sft.json"):
        options = [line for line in item["conversations"][2]["value"].splitlines()[1:] if line.startswith(("(", "-"))]
        assert len({said(option) for option in options}) == len(options)


def said(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


WHOLE = json.dumps([entry(number) for number in range(20)]).encode()
OTHERS: dict[str, tuple[bytes, str]] = {
    "lines": (b"\n".join(json.dumps(entry(number)).encode() for number in range(20)), "JSON lines"),
    "object": (b'{"data": ' + WHOLE + b"}", "object with `data`"),
    "page": (b"<!doctype html><title>502</title>", "web page"),
    "gzip": (gzip.compress(WHOLE), "unpack it"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "Latin-1": (WHOLE.replace(b"caption", "Käse".encode("latin-1")), "not UTF-8"),
    "cut": (WHOLE[:-300], "cut off"),
    "empty": (b"", "is empty"),
    "empty list": (b"[]", "holds none"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_list_of_entries_is_named(kind: str, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(20)])
    content, message = OTHERS[kind]
    (source / "blip_laion_cc_sbu_558k.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"blip_laion_cc_sbu_558k\.json.*{message}"):
        download(source, tmp_path)


@pytest.mark.parametrize("change", ["upper case", "packed"])
def test_files_with_other_endings(change: str, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(20)])
    annotations = source / "blip_laion_cc_sbu_558k.json"
    if change == "upper case":
        annotations.rename(source / "DATA.JSON")
        output: StageOutput = download(source, tmp_path)
        assert output.manifest.facts["rejected_entries"] == 0
    else:
        annotations.rename(source / "data.json.gz")
        with pytest.raises(InputError, match=r"Unpack data\.json\.gz"):
            download(source, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_in_other_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    caption = "ein grüner Käse"
    entries = [entry(number) for number in range(30)]
    entries[0]["conversations"][1]["value"] = caption
    source = make_folder(tmp_path / "data", entries)
    text = json.dumps(entries, ensure_ascii=False)
    (source / "blip_laion_cc_sbu_558k.json").write_bytes(text.encode(encoding))
    folder = download(source, tmp_path).folder
    truth = [item["caption"] for item in load(folder / "captioning.json")["annotations"]]
    assert caption in truth + [item["conversations"][1]["value"] for item in load(folder / "pretrain.json")]


def test_a_conversation_may_have_several_pictures(tmp_path: Path) -> None:
    """All of them are there, and none is held out."""
    source = make_folder(tmp_path / "data", [entry(number) for number in range(30)])
    names = [entry(number)["image"] for number in range(30)]
    turns = [{"from": "human", "value": "Is <image> like <image>?"}, {"from": "gpt", "value": "no"}]
    pairs = [{"id": f"p{n}", "image": [names[n], f"./{names[n + 1]}"], "conversations": turns} for n in range(29)]
    (source / "sft.json").write_text(json.dumps(pairs))
    folder = download(source, tmp_path).folder
    held_out = {image["file_name"] for image in load(folder / "captioning.json")["images"]}
    expected = [[names[n], names[n + 1]] for n in range(29) if not held_out & {names[n], names[n + 1]}]
    assert [item["image"] for item in load(folder / "sft.json")] == expected
    assert load(folder / "dataset.json")["counts"]["rejected_entries"] == 0
