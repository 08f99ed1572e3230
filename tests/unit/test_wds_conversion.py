"""Conversion: bytes unchanged, deterministic, resumable; what can't be used is rejected and counted."""

import json
import multiprocessing
import os
import signal
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import data_samples
import pytest
import webdataset

from components.errors import InputError
from components.stage.context import RunContext
from components.stage.progress import Progress
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.conversion import convert
from components.wds_conversion.entries import KeyMaker, read_entries
from components.wds_conversion.stage import run_wds_conversion

COUNT = 55
CONFIG = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_samples.make_captions(tmp_path_factory.mktemp("raw"), COUNT)


def _convert(raw: Path, folder: Path, processes: int = 1, **changes: Any) -> dict[str, Any]:
    config = CONFIG.model_copy(update=changes)
    return convert(raw, folder, config, processes, Progress("test")).facts


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _samples(folder: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, field = member.name.split(".")
                stream = archive.extractfile(member)
                assert stream is not None
                assert field not in samples.setdefault(key, {})
                samples[key][field] = stream.read()
    return samples


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
    convert(raw, folder, CONFIG, processes, _Deadly("test"))


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_gives_the_same_bytes(raw: Path, tmp_path: Path, processes: int) -> None:
    child = multiprocessing.get_context("spawn").Process(
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
    entries[7]["image"] = ["a.jpg", "b.jpg"]
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
    (tmp_path / "pretrain.json").write_text(json.dumps([data_samples.caption_entry(0)] * 9))
    with pytest.raises(InputError, match="9 entries, fewer than the 10 shards"):
        _convert(tmp_path, tmp_path / "out")


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


def test_stage_is_reused(raw: Path, tmp_path: Path) -> None:
    context = RunContext(run_id="t", run_name="t", workspace=tmp_path)
    first = run_wds_conversion(context, CONFIG, raw)
    assert first.folder.parent == tmp_path / "wds_conversion/pretrain"
    assert first.manifest.facts["samples"] == COUNT
    assert "shards/pretrain-000000.tar" in first.manifest.files
    assert run_wds_conversion(context, CONFIG, raw).reused
