"""Folders in LLaVA-Pretrain's layout as a source."""

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.context import RunContext
from components.data.conversation import read_conversation
from components.download.config import DatasetConfig, FolderConfig, ScenesConfig
from components.download.folder_parts import folder_parts
from components.download.intake import write_dataset
from components.download.multiple_choice import multiple_choice_prompt
from components.download.stage import run_download_dataset
from components.errors import InputError
from components.progress import Progress
from components.stage.runner import StageOutput
from components.storage.config import TransferConfig
from components.storage.listing import list_source, listing_identity
from components.storage.uri import read_uri
from components.tasks.template import LETTERS

PROMPT = "Render a clear and concise summary of the photo."


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number % 256)).save(buffer, "PNG")
    return buffer.getvalue()


def entry(number: int, **changes: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"{PROMPT}\n<image>"},
        {"from": "gpt", "value": f"caption number {number}"},
    ]
    return {"id": f"{number:05d}", "image": f"00{number % 3}/{number:05d}.png", "conversations": turns} | changes


def make_folder(folder: Path, entries: list[Any], *, zipped: bool = True, prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(entries))
    names = {item["image"]: int(item["id"]) for item in entries if isinstance(item, dict) and item.get("image")}
    if zipped:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name, number in names.items():
                archive.writestr(prefix + name, picture(number))
    else:
        for name, number in names.items():
            (folder / prefix / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / prefix / name).write_bytes(picture(number))
    return folder


def download(source: Path, workspace: Path, *, held_out: int = 6, **more: Any) -> StageOutput:
    context = RunContext(run_id="t", run_name="t", workspace=workspace)
    lock = more.pop("lock", "")
    folder = FolderConfig(held_out_pictures=held_out, **more)
    return run_download_dataset(context, DatasetConfig(source=source.as_uri(), folder=folder, lock=lock))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def images(path: Path) -> set[str]:
    return {item["image"] for item in load(path) if "image" in item}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", [entry(number) for number in range(30)])


def test_zip_is_linked_and_split(source: Path, tmp_path: Path) -> None:
    output = download(source, tmp_path)
    assert (output.folder / "images.zip").samefile(source / "images.zip")
    held_out = {image["file_name"] for image in load(output.folder / "captioning.json")["images"]}
    assert len(held_out) == 6
    assert not held_out & images(output.folder / "pretrain.json")
    assert not held_out & images(output.folder / "sft.json")
    assert held_out | images(output.folder / "pretrain.json") == {entry(number)["image"] for number in range(30)}
    facts = output.manifest.facts
    assert (facts["pretrain_entries"], facts["held_out_pictures"], facts["rejected_entries"]) == (24, 6, 0)
    first = load(output.folder / "pretrain.json")[0]
    assert read_conversation(first["conversations"], pictures=1).turns[0].text == PROMPT


def test_questions_ask_for_the_pictures_caption(source: Path, tmp_path: Path) -> None:
    folder = download(source, tmp_path, held_out=12).folder
    truth = load(folder / "captioning.json")
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    captions = {names[row["image_id"]]: row["caption"] for row in truth["annotations"]}
    rows = lines(folder / "multiple_choice.jsonl")
    assert Counter(row["answer"] for row in rows) == dict.fromkeys("ABCD", 3)
    for row in rows:
        assert row["question"] == "Which caption describes the picture?"
        assert row["options"][LETTERS.index(row["answer"])] == captions[row["image"]]
        assert set(row["options"]) <= set(captions.values())
        assert len(set(row["options"])) == 4


def test_derived_conversations(source: Path, tmp_path: Path) -> None:
    folder = download(source, tmp_path).folder
    held_out_captions = {row["caption"] for row in load(folder / "captioning.json")["annotations"]}
    for item in load(folder / "sft.json"):
        (human, caption), (question, letter) = (
            (turn.text, turn.answer) for turn in read_conversation(item["conversations"], pictures=1).turns
        )
        assert human == PROMPT
        options = [line.split(") ", 1)[1] for line in question.splitlines() if line.startswith("(")]
        assert options[LETTERS.index(letter)] == caption
        assert not set(options) & held_out_captions
        assert question == multiple_choice_prompt("Which caption describes the picture?", options)


@pytest.mark.parametrize("prefix", ["images", "."])
def test_pictures_of_a_folder_are_packed(prefix: str, tmp_path: Path) -> None:
    entries = [entry(number) for number in range(30)]
    folder = download(make_folder(tmp_path / "data", entries, zipped=False, prefix=prefix), tmp_path).folder
    with zipfile.ZipFile(folder / "images.zip") as archive:
        assert set(archive.namelist()) == {item["image"] for item in entries}
        assert archive.read(entries[7]["image"]) == picture(7)


def test_paths_may_differ_by_a_leading_images(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(30)], prefix="images/")
    folder = download(source, tmp_path).folder
    with zipfile.ZipFile(folder / "images.zip") as archive:
        assert images(folder / "pretrain.json") < set(archive.namelist())


def test_several_captions_of_a_picture_are_references(tmp_path: Path) -> None:
    entries = [entry(number, image=f"{number // 3}.png") for number in range(60)]
    folder = download(make_folder(tmp_path / "data", entries), tmp_path).folder
    counts = Counter(row["image_id"] for row in load(folder / "captioning.json")["annotations"])
    assert counts == dict.fromkeys(range(6), 3)
    assert len(load(folder / "pretrain.json")) == 60 - 18


def test_equal_sources_give_equal_bytes(source: Path, tmp_path: Path) -> None:
    a = download(source, tmp_path / "a").folder
    b = download(source, tmp_path / "b").folder
    names = sorted(path.name for path in a.iterdir() if path.name != "manifest.json")
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_finished_work_is_reused_until_the_source_changes(source: Path, tmp_path: Path) -> None:
    first = download(source, tmp_path)
    assert download(source, tmp_path).reused
    path = source / "blip_laion_cc_sbu_558k.json"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    again = download(source, tmp_path)
    assert not again.reused
    assert again.manifest.key != first.manifest.key


def test_identity_sees_every_kind_of_change(source: Path) -> None:
    def identity() -> str:
        return listing_identity(list_source(read_uri(source.as_uri(), "s"), TransferConfig()).files)

    seen = {identity()}
    (source / "extra.txt").write_text("a")
    os.utime(source / "extra.txt", ns=(0, 0))
    seen.add(identity())
    (source / "extra.txt").write_text("bc")
    os.utime(source / "extra.txt", ns=(0, 0))
    seen.add(identity())
    (source / "extra.txt").rename(source / "other.txt")
    seen.add(identity())
    assert len(seen) == 4


def test_given_conversations_are_used_without_held_out_pictures(source: Path, tmp_path: Path) -> None:
    text_only = {"id": "t", "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
    (source / "sft.json").write_text(json.dumps([text_only, *(entry(number) for number in range(30))]))
    output = download(source, tmp_path)
    assert output.manifest.facts["sft_entries"] == 25
    assert text_only in load(output.folder / "sft.json")
    held_out = {image["file_name"] for image in load(output.folder / "captioning.json")["images"]}
    assert not held_out & images(output.folder / "sft.json")


def test_a_raw_dataset_folder_is_itself_a_source(tmp_path: Path) -> None:
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path / "w")
    scenes = ScenesConfig(pictures=20, held_out_pictures=8, side=32)
    raw = run_download_dataset(context, DatasetConfig(scenes=scenes)).folder
    again = download(raw, tmp_path / "again").folder
    for name in ("captioning.json", "multiple_choice.jsonl", "pretrain.json", "sft.json"):
        assert (again / name).read_bytes() == (raw / name).read_bytes()
    for folder in (raw, again):
        assert load(folder / "dataset.json")["image_roots"] == [{"prefix": "", "source": "images.zip", "inside": ""}]


@pytest.mark.parametrize("name", ["captioning.json", "multiple_choice.jsonl"])
def test_half_an_evaluation_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    (source / name).write_text("{}")
    with pytest.raises(InputError, match="give both"):
        download(source, tmp_path)


def test_own_evaluation_of_another_layout(source: Path, tmp_path: Path) -> None:
    (source / "captioning.json").write_text('{"pictures": []}')
    (source / "multiple_choice.jsonl").write_text("")
    with pytest.raises(InputError, match="expected COCO captions"):
        download(source, tmp_path)


def test_own_evaluation_without_its_picture(source: Path, tmp_path: Path) -> None:
    (source / "captioning.json").write_text('{"images": [{"id": 1, "file_name": "no.png"}], "annotations": []}')
    (source / "multiple_choice.jsonl").write_text("")
    with pytest.raises(InputError, match=r"no\.png is not in .*images\.zip"):
        download(source, tmp_path)


BAD_ENTRIES = [
    ("text", "must be a JSON object"),
    ({"id": 1, "image": "000/00000.png"}, "must be a list of human and gpt turns"),
    (entry(0, conversations=[{"from": "human", "value": "<image>"}]), "in pairs"),
    (entry(0, conversations=[{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]), "turn 1"),
    (entry(0, conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}]), "empty"),
    (entry(0, conversations=entry(0)["conversations"] * 2), "pictures"),
    (entry(0, conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}] * 2), "found 2 pairs"),
    ({"id": 1, "conversations": entry(0)["conversations"]}, "names no picture"),
    (entry(0) | {"image": "lost.png"}, "lost.png is not in"),
    (entry(0) | {"image": "../outside.png"}, "../outside.png is not in"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ENTRIES)
@pytest.mark.parametrize("zipped", [True, False])
def test_unusable_entries_are_listed(bad: Any, reason: str, zipped: bool, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(30)], zipped=zipped)
    (tmp_path / "outside.png").write_bytes(picture(0))
    path = source / "blip_laion_cc_sbu_558k.json"
    path.write_text(json.dumps([*load(path), bad]))
    output = download(source, tmp_path, max_reject_share=0.05)
    (reject,) = lines(output.folder / "rejects.jsonl")
    assert (reject["file"], reject["row"]) == (path.name, 30)
    assert reason in reject["reason"]
    assert output.manifest.facts["rejected_entries"] == 1


def test_too_many_unusable_entries(source: Path, tmp_path: Path) -> None:
    path = source / "blip_laion_cc_sbu_558k.json"
    path.write_text(json.dumps([*load(path), *(entry(number) | {"image": "lost.png"} for number in range(3))]))
    with pytest.raises(InputError, match=r"3 of 33 entries can't be used.*max_reject_share.*entry 30 .*lost\.png"):
        download(source, tmp_path)


def test_too_many_unusable_conversations(source: Path, tmp_path: Path) -> None:
    (source / "sft.json").write_text(json.dumps([entry(0), {"id": "x"}]))
    with pytest.raises(InputError, match=r"sft\.json: 1 of 2 entries"):
        download(source, tmp_path)


def test_a_broken_member_never_becomes_an_evaluation_picture(tmp_path: Path) -> None:
    entries = [entry(number) for number in range(30)]
    source = make_folder(tmp_path / "data", entries)
    path = source / "images.zip"
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(entries[11]["image"])
    damaged = bytearray(path.read_bytes())
    damaged[member.header_offset + 30 + len(member.filename) + 20] ^= 0xFF
    path.write_bytes(damaged)
    folder = download(source, tmp_path, held_out=15, max_reject_share=0.05).folder
    held_out = {image["file_name"] for image in load(folder / "captioning.json")["images"]}
    assert entries[11]["image"] not in held_out
    rejects = lines(folder / "rejects.jsonl")
    assert all("00011.png in" in reject["reason"] and "CRC" in reject["reason"] for reject in rejects)


def test_pictures_that_all_are_broken(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(30)])
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for number in range(30):
            archive.writestr(entry(number)["image"], b"no picture")
    with pytest.raises(InputError, match=r"only 0 of 6 pictures for evaluation can be decoded"):
        download(source, tmp_path)


def test_cut_off_zip(source: Path, tmp_path: Path) -> None:
    path = source / "images.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"images\.zip is not a readable zip"):
        download(source, tmp_path)


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png"])
def test_zip_members_may_not_leave_the_folder(name: str, source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(source / "images.zip", "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InputError, match="outside its folder"):
        download(source, tmp_path)


def test_encrypted_zip(source: Path, tmp_path: Path) -> None:
    path = source / "images.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 0x1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        download(source, tmp_path)


def test_several_annotations(source: Path, tmp_path: Path) -> None:
    (source / "other.json").write_text("[]")
    with pytest.raises(InputError, match=r"several JSON files \(blip_laion_cc_sbu_558k\.json, other\.json\)"):
        download(source, tmp_path)


def test_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="has no annotations"):
        download(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("[{", "is not JSON"), ("{}", "must hold a list"), ("[]", "must hold a list")]
)
def test_annotations_of_another_form(text: str, message: str, source: Path, tmp_path: Path) -> None:
    (source / "blip_laion_cc_sbu_558k.json").write_text(text)
    with pytest.raises(InputError, match=message):
        download(source, tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist on this machine"):
        download(tmp_path / "nowhere", tmp_path)


def test_file_instead_of_a_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is one file"):
        download(source / "images.zip", tmp_path)


@pytest.mark.parametrize(("pictures", "held_out"), [(30, 7), (12, 4), (8, 4)])
def test_of_few_pictures_a_quarter_is_held_out(pictures: int, held_out: int, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(pictures)])
    facts = download(source, tmp_path, held_out=200).manifest.facts
    assert (facts["held_out_pictures"], facts["pretrain_entries"]) == (held_out, pictures - held_out)
    assert facts["held_out"].startswith(f"{held_out} pictures chosen")


def test_half_may_be_held_out_where_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    assert download(source, tmp_path, held_out=15).manifest.facts["held_out_pictures"] == 15


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "data", [entry(number) for number in range(7)])
    with pytest.raises(InputError, match="has 7 usable pictures; 8 are needed: 4 are held out"):
        download(source, tmp_path, held_out=200)


def test_captions_that_are_all_the_same(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "same"}]
    source = make_folder(tmp_path / "data", [entry(number, conversations=turns) for number in range(30)])
    with pytest.raises(InputError, match="Only 1 different captions"):
        download(source, tmp_path)


def lock_file(folder: Path, files: dict[str, Path]) -> str:
    entries = {
        name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in files.items()
    }
    path = folder / "lock.json"
    path.write_text(json.dumps({"sources": {"data.source": {"uri": "s3://where/it/was", "files": entries}}}))
    return path.as_uri()


def test_lock(source: Path, tmp_path: Path) -> None:
    names = {path.name: path for path in source.iterdir()}
    right = lock_file(tmp_path, names)
    first = download(source, tmp_path, lock=right)
    assert download(source, tmp_path, lock=right).reused
    path = source / "blip_laion_cc_sbu_558k.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match=r"blip_laion_cc_sbu_558k\.json of .* its lock file says"):
        download(source, tmp_path, lock=right)
    assert download(source, tmp_path).manifest.key != first.manifest.key
    (tmp_path / "lock.json").unlink()
    short = lock_file(tmp_path, {"images.zip": names["images.zip"]})
    with pytest.raises(InputError, match=r"has blip_laion_cc_sbu_558k\.json, other than its lock file says"):
        download(source, tmp_path, lock=short)
    with pytest.raises(InputError, match="lock.json"):
        download(source, tmp_path, lock=(tmp_path / "nothing" / "lock.json").as_uri())
    (tmp_path / "lock.json").write_text("{}")
    with pytest.raises(InputError, match="is not a lock file"):
        download(source, tmp_path, lock=right)


_TEXT = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and "<image>" not in text)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    captions=st.lists(st.tuples(st.integers(0, 19), _TEXT), min_size=30, max_size=60),
    bad=st.lists(st.sampled_from([bad for bad, _ in BAD_ENTRIES]), max_size=8),
    seed=st.integers(0, 5),
    zipped=st.booleans(),
)
def test_nothing_is_lost_and_nothing_leaks(
    captions: list[tuple[int, str]], bad: list[Any], seed: int, zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every entry is trained on, held out or rejected; no picture is on both sides; words survive unchanged."""
    tmp_path = tmp_path_factory.mktemp("property")
    # Twenty pictures with a caption of their own make the sizes valid; the drawn captions come on top.
    entries: list[Any] = [entry(number) for number in range(20)]
    for number, text in captions:
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
        entries.append(entry(number, conversations=turns))
    source = make_folder(tmp_path / "data", entries, zipped=zipped)
    (source / "blip_laion_cc_sbu_558k.json").write_text(json.dumps([*entries, *bad]))
    (tmp_path / "out").mkdir()
    facts = write_dataset(
        folder_parts(source, "test"),
        FolderConfig(held_out_pictures=8, max_reject_share=0.5),
        seed,
        "n",
        tmp_path / "out",
        Progress("t"),
    )
    truth = load(tmp_path / "out" / "captioning.json")
    held_out = {image["file_name"] for image in truth["images"]}
    assert facts["rejected_entries"] == len(bad)
    expected = [item for item in entries if item["image"] not in held_out]
    training = load(tmp_path / "out" / "pretrain.json")
    assert [(item["image"], item["conversations"][1]["value"]) for item in training] == [
        (item["image"], item["conversations"][1]["value"].strip()) for item in expected
    ]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    assert {(names[row["image_id"]], row["caption"]) for row in truth["annotations"]} == {
        (item["image"], item["conversations"][1]["value"].strip()) for item in entries if item["image"] in held_out
    }
    assert not held_out & images(tmp_path / "out" / "sft.json")
