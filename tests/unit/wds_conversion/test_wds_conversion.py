"""Conversion: bytes unchanged, deterministic, resumable; what can't be used is rejected and counted."""

import json
import multiprocessing
import os
import signal
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from components.context import RunContext
from components.data.image_roots import FilePlace, ImageReader
from components.data.image_settings import ImageCheck
from components.errors import InputError, StageError
from components.progress import Progress
from components.storage.checksum import sha256_file
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import Part, convert
from components.wds_conversion.entries import KeyMaker, read_entries
from components.wds_conversion.samples import RejectedEntry, sample_fields
from components.wds_conversion.shard_file import ShardFile
from components.wds_conversion.stage import run_wds_conversion, run_wds_conversion_merge, run_wds_conversion_part
from tests.support import data_samples

COUNT = 55
CONFIG = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_samples.make_captions(tmp_path_factory.mktemp("raw"), COUNT)


def _convert(raw: Path, folder: Path, processes: int = 1, **changes: Any) -> dict[str, Any]:
    config = CONFIG.model_copy(update=changes)
    return convert(raw, folder, config, processes, Progress("test"), rows_per_process=1).facts


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _samples(folder: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, field = member.name.partition(".")
                assert field not in samples.setdefault(key, {})
                samples[key][field] = _read(archive, member)
    return samples


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _rejects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def test_pictures_and_conversations_are_unchanged(raw: Path, tmp_path: Path) -> None:
    facts = _convert(raw, tmp_path)
    samples = _samples(tmp_path)
    assert facts["samples"] == len(samples) == COUNT
    assert facts["formats"] == {"jpg": COUNT}
    with zipfile.ZipFile(raw / "images.zip") as archive:
        for entry in json.loads((raw / "pretrain.json").read_text()):
            assert samples[entry["id"]]["jpg"] == archive.read(entry["image"])
            assert json.loads(samples[entry["id"]]["json"]) == entry["conversations"]
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert names == [f"pretrain-{number:06d}.tar" for number in range(10)]
    assert (tmp_path / "rejects.jsonl").read_text() == ""


def test_bytes_do_not_depend_on_processes(raw: Path, tmp_path: Path) -> None:
    _convert(raw, tmp_path / "one", 1)
    _convert(raw, tmp_path / "three", 3)
    assert _content(tmp_path / "one") == _content(tmp_path / "three")
    with tarfile.open(tmp_path / "one/shards/pretrain-000003.tar") as archive:
        assert {(member.mtime, member.uid, member.mode) for member in archive} == {(0, 0, 0o644)}


def _shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> tuple[ShardFile, int, str]:
    with open(path, "wb") as stream:
        shard = ShardFile(stream)
        for key, fields in samples.items():
            shard.write(key, list(fields.items()))
        return shard, *shard.finish()


_FIELDS = st.fixed_dictionaries(
    {"json": st.binary(max_size=600)},
    optional={extension: st.binary(max_size=2000) for extension in ("jpg", "png", "webp")},
)


@given(st.dictionaries(st.text("abcXYZ019_-", min_size=1, max_size=90), _FIELDS, max_size=5))
def test_shard_holds_what_was_written_and_nothing_of_its_writer(samples: dict[str, dict[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        shard, size, sha256 = _shard(path, samples)
        shard.verify(path)
        assert (size, sha256) == (path.stat().st_size, sha256_file(path))
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.mode) == (0, 0o644)
                assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
                key, field = member.name.split(".")
                found.setdefault(key, {})[field] = _read(archive, member)
        assert found == samples


@pytest.mark.parametrize("damage", ["picture", "name", "cut", "gone", "more"])
def test_shard_that_reads_back_otherwise_is_not_finished(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "shard.tar"
    samples = {f"key-{number}": {"jpg": b"picture" * 400, "json": b"[]"} for number in range(3)}
    shard, _, _ = _shard(path, samples)
    content = bytearray(path.read_bytes())
    if damage == "picture":
        content[512 + 77] ^= 1
    elif damage == "name":
        _shard(path, {"other-0" if key == "key-0" else key: fields for key, fields in samples.items()})
        content = bytearray(path.read_bytes())
    elif damage == "cut":
        del content[2000:]
    else:
        del samples["key-2"]
        _shard(path, samples if damage == "gone" else {**samples, "key-2": {}, "key-3": {"json": b""}})
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"shard\.tar (can't be read back|reads back other than it was written)"):
        shard.verify(path)


def test_webdataset_reads_the_shards(raw: Path, tmp_path: Path) -> None:
    _convert(raw, tmp_path)
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(COUNT)]
    assert samples[3]["jpg"].size == (40, 32)
    assert samples[3]["json"][1]["from"] == "gpt"


class _Deadly(Progress):
    """Kills the process when enough is done."""

    def update(self, done: int, force: bool = False, **fields: float | str) -> None:
        if done >= COUNT // 3:
            os.kill(os.getpid(), signal.SIGKILL)


def _convert_and_die(raw: Path, folder: Path, processes: int) -> None:
    convert(raw, folder, CONFIG, processes, _Deadly("test"), rows_per_process=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_gives_the_same_bytes(raw: Path, tmp_path: Path, processes: int) -> None:
    child = multiprocessing.get_context("forkserver").Process(
        target=_convert_and_die, args=(raw, tmp_path / "killed", processes)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    markers = list((tmp_path / "killed/markers").glob("*.json"))
    assert 0 < len(markers) <= 10
    # What a kill in the middle of a write leaves, and a shard whose marker was never written.
    (tmp_path / "killed/shards/pretrain-000009.tar.999.tmp").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/shards").glob("*.tar")}
    markers[0].unlink()
    _convert(raw, tmp_path / "killed")
    _convert(raw, tmp_path / "whole")
    assert _content(tmp_path / "killed") == _content(tmp_path / "whole")
    rewritten = markers[0].stem
    kept = [
        path for path in times if path.stem != rewritten and path.with_suffix(".json").name in {m.name for m in markers}
    ]
    assert kept
    assert all(path.stat().st_mtime_ns == times[path] for path in kept)


def test_a_shard_that_lost_bytes_is_written_again(raw: Path, tmp_path: Path) -> None:
    _convert(raw, tmp_path)
    before = _content(tmp_path)
    (tmp_path / "shards/pretrain-000004.tar").write_bytes(b"short")
    _convert(raw, tmp_path)
    assert _content(tmp_path) == before


def test_bad_entries_are_rejected_with_their_cause(tmp_path: Path) -> None:
    entries: list[Any] = [data_samples.caption_entry(number) for number in range(100)]
    pictures = {entry["image"]: data_samples.picture(number) for number, entry in enumerate(entries)}
    pictures[entries[1]["image"]] = pictures[entries[1]["image"]][:-200]
    pictures[entries[2]["image"]] = b"GIF89a, not a picture"
    del pictures[entries[3]["image"]]
    entries[4]["conversations"][1]["value"] = " "
    del entries[5]["conversations"][1]
    entries[6] = "not an object"
    entries[7]["image"] = ["a.jpg", 3]
    entries[8]["conversations"][0]["value"] = "<image><image>"
    del entries[9]["image"]
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    facts = _convert(raw, tmp_path / "out", max_reject_share=0.5)
    assert {(reject["row"], reject["cause"]) for reject in _rejects(tmp_path / "out")} == {
        (1, "broken_picture"),
        (2, "unknown_format"),
        (3, "missing_picture"),
        (4, "bad_conversation"),
        (5, "bad_conversation"),
        (6, "bad_entry"),
        (7, "bad_entry"),
        (8, "bad_conversation"),
        (9, "bad_conversation"),
    }
    assert facts["rejected"] == 9
    assert facts["samples"] == 91 == len(_samples(tmp_path / "out"))
    assert facts["reject_causes"]["bad_conversation"] == 4
    with pytest.raises(InputError, match=r"9 of 100 entries .*max_reject_share.*0\.05 allows.*rejects\.jsonl"):
        _convert(raw, tmp_path / "strict", max_reject_share=0.05)
    assert _convert(raw, tmp_path / "header", max_reject_share=0.5, check_images="header")["rejected"] == 9
    assert _convert(raw, tmp_path / "unchecked", max_reject_share=0.5, check_images="off")["rejected"] == 8


def test_empty_pictures_and_cut_texts_are_named_and_odd_spellings_are_read(tmp_path: Path) -> None:
    entries: list[Any] = [data_samples.caption_entry(number) for number in range(40)]
    pictures = {entry["image"]: data_samples.picture(number) for number, entry in enumerate(entries)}
    pictures[entries[1]["image"]] = b""
    entries[2]["conversations"][1]["value"] = "nice \ud83d"
    entries[3]["image"] = f"./{entries[3]['image']}"
    entries[4]["image"] = [entries[4]["image"]]
    entries[5]["image"] = None
    entries[5]["conversations"][0]["value"] = "what?"
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    facts = _convert(raw, tmp_path / "out", max_reject_share=0.5)
    assert [(reject["row"], reject["cause"]) for reject in _rejects(tmp_path / "out")] == [
        (1, "broken_picture"),
        (2, "bad_conversation"),
    ]
    details = [reject["detail"] for reject in _rejects(tmp_path / "out")]
    assert "empty (0 bytes)" in details[0]
    assert "surrogate" in details[1]
    assert facts["text_only"] == 1


def test_texts_dialogues_and_formats(tmp_path: Path) -> None:
    entries = [data_samples.dialogue_entry(number, number % 2 == 0) for number in range(20)]
    kinds = {0: "PNG", 2: "WEBP"}
    pictures = {
        entry["image"]: data_samples.picture(number, kinds.get(number, "JPEG"))
        for number, entry in enumerate(entries)
        if "image" in entry
    }
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures, compression=zipfile.ZIP_DEFLATED)
    facts = _convert(raw, tmp_path / "out")
    assert facts["formats"] == {"jpg": 8, "png": 1, "webp": 1}
    assert facts["text_only"] == 10
    samples = _samples(tmp_path / "out")
    assert set(samples["d1"]) == {"json"}
    assert samples["d0"]["png"] == pictures["train/00000000.jpg"]
    assert len(json.loads(samples["d4"]["json"])) == 4


def test_a_folder_of_pictures_works_and_is_not_left(tmp_path: Path, raw: Path) -> None:
    folder = tmp_path / "raw"
    with zipfile.ZipFile(raw / "images.zip") as archive:
        archive.extractall(folder / "images")
    entries = json.loads((raw / "pretrain.json").read_text())
    (tmp_path / "secret.jpg").write_bytes(data_samples.picture(1))
    entries[7]["image"] = "../../secret.jpg"
    entries[8]["image"] = str(tmp_path / "secret.jpg")
    (folder / "pretrain.json").write_text(json.dumps(entries))
    _convert(folder, tmp_path / "out", max_reject_share=0.1)
    assert [reject["row"] for reject in _rejects(tmp_path / "out")] == [7, 8]
    _convert(raw, tmp_path / "zip")
    from_folder, from_zip = _samples(tmp_path / "out"), _samples(tmp_path / "zip")
    assert all(from_folder[key] == from_zip[key] for key in from_folder)


def test_damage_inside_the_zip_is_found(raw: Path, tmp_path: Path) -> None:
    content = bytearray((raw / "images.zip").read_bytes())
    with zipfile.ZipFile(raw / "images.zip") as archive:
        offset = archive.getinfo("train/00000005.jpg").header_offset
    content[offset + 200] ^= 0xFF
    (tmp_path / "images.zip").write_bytes(content)
    (tmp_path / "pretrain.json").write_bytes((raw / "pretrain.json").read_bytes())
    _convert(tmp_path, tmp_path / "out", max_reject_share=0.1, check_images="off")
    (reject,) = _rejects(tmp_path / "out")
    assert reject["row"] == 5
    assert "CRC" in reject["detail"]


def test_unusable_inputs_name_the_file_and_the_remedy(raw: Path, tmp_path: Path) -> None:
    annotations = (raw / "pretrain.json").read_bytes()
    archive = (raw / "images.zip").read_bytes()
    with pytest.raises(InputError, match=r"pretrain\.json does not exist"):
        _convert(tmp_path, tmp_path / "out")
    (tmp_path / "pretrain.json").write_bytes(annotations)
    with pytest.raises(InputError, match=r"neither images\.zip nor images/"):
        _convert(tmp_path, tmp_path / "out")
    (tmp_path / "images.zip").write_bytes(archive[:-100])
    with pytest.raises(InputError, match=r"images\.zip is not a readable zip .* download it again"):
        _convert(tmp_path, tmp_path / "out")
    (tmp_path / "images.zip").write_bytes(archive)
    (tmp_path / "pretrain.json").write_bytes(annotations[:-50])
    with pytest.raises(InputError, match=r"pretrain\.json is not JSON"):
        _convert(tmp_path, tmp_path / "out")
    (tmp_path / "pretrain.json").write_text("{}")
    with pytest.raises(InputError, match="JSON list of entries"):
        _convert(tmp_path, tmp_path / "out")
    (tmp_path / "pretrain.json").write_text("[]")
    with pytest.raises(InputError, match=r"pretrain\.json holds an empty list"):
        _convert(tmp_path, tmp_path / "out")


def test_fewer_entries_than_shards_are_a_shard_each(tmp_path: Path) -> None:
    entries = [data_samples.caption_entry(number) for number in range(9)]
    pictures = {entry["image"]: data_samples.picture(number) for number, entry in enumerate(entries)}
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    facts = run_wds_conversion(RunContext(run_id="t", run_name="t", workspace=tmp_path), CONFIG, raw).manifest.facts
    assert (facts["shards"], facts["samples"]) == (9, 9)


@pytest.mark.parametrize(("per_shard", "shards"), [(10_000, 10), (5, 11), (2, 28)])
def test_number_of_shards(raw: Path, tmp_path: Path, per_shard: int, shards: int) -> None:
    assert _convert(raw, tmp_path, samples_per_shard=per_shard)["shards"] == shards


def test_keys_are_safe_and_unique() -> None:
    identifiers = ["a.b/c", "x", "x", "x-2", 7, None, "", "__meta__", "漢字", "y" * 200, "y" * 200, {"not": "an id"}]
    maker = KeyMaker()
    entries = [{"id": identifier} for identifier in identifiers] + ["no object"]
    keys = [maker.key(row, entry) for row, entry in enumerate(entries)]
    assert keys[:5] == ["a_b_c", "x", "x-2", "x-2-3", "7"]
    assert len(set(keys)) == len(keys)
    assert all(0 < len(key) <= 80 and not set("./") & set(key) and not key.startswith("_") for key in keys)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.lists(JSON_VALUES, min_size=1, max_size=12),
    st.sampled_from([None, 1, 40]),
    st.booleans(),
    st.integers(1, 90),
    st.booleans(),
)
def test_the_stream_of_entries_is_what_json_says(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Any],
    indent: int | None,
    ascii_only: bool,
    chunk_bytes: int,
    with_mark: bool,
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    text = json.dumps(entries, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8-sig" if with_mark else "utf-8", "surrogatepass"))
    found = list(read_entries(path, chunk_bytes=chunk_bytes))
    assert [entry for _, entry in found] == entries
    for row in {0, len(entries) // 2, len(entries) - 1}:
        again = list(read_entries(path, offset=found[row][0], chunk_bytes=chunk_bytes))
        assert again == found[row:]


@pytest.mark.parametrize(
    "text", ['[{"a": 1}', "[1, 2", "[1 2]", "[1,]", "[1] 2", '[{"a" 1}]', '["a', "[tru]", "[1.5e]", "[" * 9999]
)
@pytest.mark.parametrize("chunk_bytes", [3, 1 << 20])
def test_broken_annotations_are_refused(tmp_path: Path, text: str, chunk_bytes: int) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json is not JSON: at byte \d+"):
        list(read_entries(tmp_path / "a.json", chunk_bytes=chunk_bytes))
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match=r"a\.json is not JSON.*utf-8"):
        list(read_entries(tmp_path / "a.json", chunk_bytes=chunk_bytes))


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_the_same_bytes_whatever_the_processes_interruptions_and_parts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Mixed entries, some unusable; random shards lost, or left half-written, by an earlier run."""
    folder = tmp_path_factory.mktemp("property")
    kinds = data.draw(
        st.lists(st.sampled_from(["caption", "dialogue", "text", "broken", "absent"]), min_size=12, max_size=40)
    )
    entries = [_entry(kind, number) for number, kind in enumerate(kinds)]
    pictures = {
        entry["image"]: data_samples.picture(number)[: -300 if kind == "broken" else None]
        for number, (kind, entry) in enumerate(zip(kinds, entries, strict=True))
        if kind in ("caption", "dialogue", "broken")
    }
    raw = data_samples.make_raw(folder / "raw", entries, pictures)
    changes = {"max_reject_share": 1.0, "samples_per_shard": data.draw(st.integers(1, 9)), "min_shards": 2}
    _convert(raw, folder / "one", 1, **changes)
    expected = _content(folder / "one")
    _convert(raw, folder / "other", 1, **changes)
    for path in data.draw(st.lists(st.sampled_from(sorted((folder / "other").rglob("*.*"))), max_size=6)):
        path.unlink(missing_ok=True)
    (folder / "other/shards/sft-000000.tar.77.tmp").write_bytes(b"half")
    _convert(raw, folder / "other", data.draw(st.integers(1, 3)), **changes)
    assert _content(folder / "other") == expected
    total = data.draw(st.integers(1, 4))
    parts: dict[str, bytes] = {}
    for number in range(total):
        config = CONFIG.model_copy(update=changes)
        convert(raw, folder / f"part{number}", config, 1, Progress("test"), Part(number, total))
        parts |= {name: content for name, content in _content(folder / f"part{number}").items() if "/" in name}
    assert parts == {name: content for name, content in expected.items() if "/" in name}


def _entry(kind: str, number: int) -> dict[str, Any]:
    if kind in ("dialogue", "text"):
        return data_samples.dialogue_entry(number, kind == "dialogue")
    return data_samples.caption_entry(number)


def test_a_killed_process_is_explained_and_its_work_goes_on(raw: Path, tmp_path: Path) -> None:
    class KillsAWorker(Progress):
        killed = False

        def update(self, done: int, force: bool = False, **fields: float | str) -> None:
            if done and not self.killed:
                self.killed = True
                multiprocessing.active_children()[0].kill()

    config = CONFIG.model_copy(update={"samples_per_shard": 1})
    with pytest.raises(StageError, match="was killed.*finished shards are kept"):
        convert(raw, tmp_path / "killed", config, 2, KillsAWorker("test"), rows_per_process=1)
    assert list((tmp_path / "killed/markers").glob("*.json"))
    _convert(raw, tmp_path / "killed", 1, samples_per_shard=1)
    _convert(raw, tmp_path / "whole", 1, samples_per_shard=1)
    assert _content(tmp_path / "killed") == _content(tmp_path / "whole")


def test_a_dataset_that_can_not_be_used_ends_early(tmp_path: Path) -> None:
    entries = [data_samples.caption_entry(number) for number in range(100)]
    raw = data_samples.make_raw(tmp_path / "raw", entries, {"other.jpg": data_samples.picture(0)})
    with pytest.raises(InputError, match=r"10 of 100 entries .* \(90 were not looked at\).*'missing_picture': 10"):
        _convert(raw, tmp_path / "out", max_reject_share=0.05)
    assert len(_rejects(tmp_path / "out")) == 10


def test_shards_emptied_by_rejects_are_refused(tmp_path: Path) -> None:
    entries = [data_samples.caption_entry(number) for number in range(20)]
    pictures = {entry["image"]: data_samples.picture(0) for entry in entries[2:]}
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    config = CONFIG.model_copy(update={"max_reject_share": 0.5})
    with pytest.raises(InputError, match="Only 9 shards have samples, `min_shards` asks for 10"):
        run_wds_conversion(RunContext(run_id="t", run_name="t", workspace=tmp_path), config, raw)


def test_texts_that_are_no_unicode_are_rejected(tmp_path: Path) -> None:
    entries = [data_samples.caption_entry(number) for number in range(20)]
    entries[3]["conversations"][1]["value"] = "half a pair: \ud83d"
    entries[4]["image"] = "\ud83d.jpg"
    entries[5]["id"] = "\ud83d"
    pictures = {entry["image"]: data_samples.picture(0) for entry in entries if "\ud83d" not in entry["image"]}
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    _convert(raw, tmp_path / "out", max_reject_share=0.5)
    assert [(reject["row"], reject["cause"]) for reject in _rejects(tmp_path / "out")] == [
        (3, "bad_conversation"),
        (4, "missing_picture"),
    ]
    assert "row-000000005" in _samples(tmp_path / "out")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("check", ["decode", "header"])
def test_pictures_that_were_cut_off_are_found(kind: str, check: ImageCheck) -> None:
    entry = data_samples.caption_entry(0)
    with ImageReader([]) as reader:

        def fields(content: bytes) -> list[tuple[str, bytes]]:
            reader.read = lambda place: content  # type: ignore[method-assign]
            return sample_fields(entry, [FilePlace(0, "x")], reader, check)

        picture = data_samples.picture(7, kind, size=(200, 160))
        assert fields(picture)[0] == (kind.lower().replace("jpeg", "jpg"), picture)
        # Without the last few bytes, checksums and the end mark, a picture still decodes.
        for lost in (*([1, 10] if check == "header" else []), len(picture) // 3, len(picture) - 40):
            with pytest.raises(RejectedEntry) as caught:
                fields(picture[:-lost])
            assert caught.value.cause == "broken_picture"


def test_several_roots_of_pictures(tmp_path: Path) -> None:
    """The layout of LLaVA-Instruct-mix665k: a zip, a folder, and entries without a picture."""
    entries = [data_samples.dialogue_entry(number, number % 3 != 2) for number in range(30)]
    for number, entry in enumerate(entries):
        if "image" in entry:
            entry["image"] = f"coco/train2017/{number}.jpg" if number % 3 else f"gqa/images/{number}.png"
    pictures = {f"train2017/{number}.jpg": data_samples.picture(number) for number in range(1, 30, 3)}
    raw = data_samples.make_raw(tmp_path / "raw", entries, pictures)
    (raw / "images.zip").rename(raw / "train2017.zip")
    (raw / "gqa").mkdir()
    for number in range(0, 30, 3):
        (raw / f"gqa/{number}.png").write_bytes(data_samples.picture(number, "PNG"))
    roots = [
        {"prefix": "coco/", "source": "train2017.zip", "inside": ""},
        {"prefix": "gqa/images/", "source": "gqa", "inside": ""},
    ]
    (raw / "dataset.json").write_text(json.dumps({"image_roots": roots}))
    facts = _convert(raw, tmp_path / "out", 2)
    assert (facts["samples"], facts["text_only"], facts["formats"]) == (30, 10, {"jpg": 10, "png": 10})
    samples = _samples(tmp_path / "out")
    assert samples["d1"]["jpg"] == pictures["train2017/1.jpg"]
    assert samples["d3"]["png"] == data_samples.picture(3, "PNG")


def _parallel(workspace: Path, tasks: int, prefix: str = "pretrain") -> tuple[RunContext, WdsConversionConfig]:
    context = RunContext(run_id="t", run_name="t", workspace=workspace)
    return context, CONFIG.model_copy(update={"parallel_tasks": tasks, "prefix": prefix})


def test_parts_join_to_what_one_task_writes(raw: Path, tmp_path: Path) -> None:
    context, config = _parallel(tmp_path, 3)
    parts = [run_wds_conversion_part(context, config, raw, part).folder for part in range(3)]
    assert [len(list((part / "shards").iterdir())) for part in parts] == [3, 3, 4]
    joined = run_wds_conversion_merge(context, config, raw, parts[::-1])
    alone = run_wds_conversion(RunContext(run_id="t", run_name="t", workspace=tmp_path / "alone"), CONFIG, raw)
    assert joined.folder.name == alone.folder.name
    assert joined.manifest.files == alone.manifest.files
    assert joined.manifest.facts == alone.manifest.facts
    for path in (alone.folder / "shards").iterdir():
        assert (joined.folder / "shards" / path.name).read_bytes() == path.read_bytes()
        assert alone.manifest.files[f"shards/{path.name}"].sha256 == sha256_file(path)
    assert run_wds_conversion(context, CONFIG, raw).reused


def test_parts_that_do_not_make_a_whole_are_refused(raw: Path, tmp_path: Path) -> None:
    context, config = _parallel(tmp_path, 2)
    first, second = (run_wds_conversion_part(context, config, raw, part).folder for part in range(2))
    with pytest.raises(StageError, match=r"needs the parts \['0 of 2', '1 of 2'\], each once; it was given 1"):
        run_wds_conversion_merge(context, config, raw, [first])
    with pytest.raises(StageError, match="it was given 2"):
        run_wds_conversion_merge(context, config, raw, [first, first])
    with pytest.raises(StageError, match="no part 2 of 2"):
        run_wds_conversion_part(context, config, raw, 2)
    other = config.model_copy(update={"check_images": "off"})
    with pytest.raises(StageError, match="another dataset or other settings"):
        run_wds_conversion_merge(context, other, raw, [first, second])
    marker = next((second / "markers").iterdir())
    content = marker.read_bytes()
    marker.unlink()
    with pytest.raises(StageError, match="don't make a whole: 9 shards"):
        run_wds_conversion_merge(context, config, raw, [first, second])
    marker.write_bytes(content)
    (second / "shards" / f"{marker.stem}.tar").write_bytes(b"short")
    with pytest.raises(StageError, match="don't fit together"):
        run_wds_conversion_merge(context, config, raw, [first, second])


def test_a_part_with_more_rejects_than_the_whole_may_have_fails(tmp_path: Path) -> None:
    entries = [data_samples.caption_entry(number) for number in range(40)]
    raw = data_samples.make_raw(tmp_path / "raw", entries, {e["image"]: data_samples.picture(0) for e in entries[4:]})
    context, config = _parallel(tmp_path, 2)
    with pytest.raises(InputError, match=r"4 of 40 entries .* \(36 were not looked at\)"):
        run_wds_conversion_part(context, config, raw, 0)
    run_wds_conversion_part(context, config, raw, 1)
    lenient = config.model_copy(update={"max_reject_share": 0.1, "prefix": "sft"})
    parts = [run_wds_conversion_part(context, lenient, raw, part).folder for part in range(2)]
    with pytest.raises(InputError, match="Only 9 shards"):
        run_wds_conversion_merge(context, lenient, raw, parts)


def test_stage_is_reused(raw: Path, tmp_path: Path) -> None:
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    first = run_wds_conversion(context, CONFIG, raw)
    assert first.folder.parent == tmp_path / "wds_conversion/pretrain"
    assert first.manifest.facts["samples"] == COUNT
    assert "shards/pretrain-000000.tar" in first.manifest.files
    assert run_wds_conversion(context, CONFIG, raw).reused
