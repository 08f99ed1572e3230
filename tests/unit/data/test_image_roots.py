"""Pictures found by name in zips and folders: prefixes, damage, names and links that lead out."""

import io
import json
import os
import posixpath
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.data.image_roots import BrokenImage, ImageIndex, ImageReader, MissingImage
from components.errors import InputError


def describe(raw: Path, roots: Any) -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps({"name": "d", "image_roots": roots}))
    return raw


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(raw: Path, name: str) -> bytes | None:
    index = ImageIndex(raw)
    place = index.find(name)
    with ImageReader(index.sources) as reader:
        return None if place is None else reader.read(place)


def test_the_longest_prefix_decides(tmp_path: Path) -> None:
    write_zip(tmp_path / "coco/train2017.zip", {"train2017/1.jpg": b"coco"})
    write_zip(tmp_path / "vg/images.zip", {"VG_100K/1.jpg": b"vg", "VG_100K/coco/train2017/2.jpg": b"decoy"})
    (tmp_path / "ocr/pictures").mkdir(parents=True)
    (tmp_path / "ocr/pictures/1.jpg").write_bytes(b"ocr")
    describe(
        tmp_path,
        [
            {"prefix": "", "source": "vg/images.zip", "inside": "VG_100K/"},
            {"prefix": "coco/train2017/", "source": "coco/train2017.zip", "inside": "train2017/"},
            {"prefix": "vg/", "source": "vg/images.zip"},
            {"prefix": "ocr_vqa/images/", "source": "ocr"},
            {"prefix": "ocr_vqa/images/x/", "source": "ocr", "inside": "pictures/"},
        ],
    )
    assert read(tmp_path, "coco/train2017/1.jpg") == b"coco"
    assert read(tmp_path, "coco/train2017/2.jpg") is None, "no other root is asked"
    assert read(tmp_path, "1.jpg") == b"vg"
    assert read(tmp_path, "vg/VG_100K/1.jpg") == b"vg"
    assert read(tmp_path, "ocr_vqa/images/x/1.jpg") == b"ocr"
    assert read(tmp_path, "ocr_vqa/images/pictures/1.jpg") == b"ocr"
    with pytest.raises(MissingImage, match="no such file"):
        read(tmp_path, "ocr_vqa/images/absent.jpg")


@pytest.mark.parametrize("description", [None, "{}", '{"image_roots": null}'])
def test_without_roots_the_zip_comes_before_the_folder(tmp_path: Path, description: str | None) -> None:
    if description is not None:
        (tmp_path / "dataset.json").write_text(description)
    assert ImageIndex(tmp_path).sources == ()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(b"folder")
    assert read(tmp_path, "1.jpg") == b"folder"
    write_zip(tmp_path / "images.zip", {"1.jpg": b"zip"})
    assert read(tmp_path, "1.jpg") == b"zip"


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ([{"source": "../other.zip"}], r"image_roots.0.source: .*without '\.\.'"),
        ([{"source": "/etc"}], r"image_roots.0.source: .*below the raw dataset folder"),
        ([{"source": "a.zip", "folder": "x"}], r"image_roots.0.folder"),
        ([{"prefix": "a"}], r"image_roots.0.source: Field required"),
        ("images.zip", "image_roots"),
        ([{"source": "a.zip"}, {"source": "b.zip"}], "prefix '' more than once"),
        ([{"source": "absent.zip"}], r"absent\.zip do not exist"),
    ],
)
def test_wrong_roots_are_explained(tmp_path: Path, roots: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageIndex(describe(tmp_path, roots))
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match=r"dataset\.json must hold a JSON object"):
        ImageIndex(tmp_path)


def test_a_zip_is_opened_when_a_picture_should_be_in_it(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"1.jpg": b"picture"})
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-10])
    describe(tmp_path, [{"prefix": "a/", "source": "a.zip"}, {"prefix": "b/", "source": "b.zip"}])
    assert read(tmp_path, "a/1.jpg") == b"picture"
    with pytest.raises(InputError, match=r"b\.zip is not a readable zip .* download it again"):
        read(tmp_path, "b/1.jpg")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname", "", ".", "a\0b", "x/../../secret"])
def test_names_do_not_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    raw = describe(tmp_path / "raw", [{"source": "pictures"}, {"prefix": "x/", "source": "pictures", "inside": "a/"}])
    (raw / "pictures/a").mkdir(parents=True)
    assert ImageIndex(raw).find(name) is None


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/1.jpg").write_bytes(b"secret")
    store = tmp_path / "store"
    store.mkdir()
    (store / "1.jpg").write_bytes(b"picture")
    (store / "within.jpg").symlink_to("1.jpg")
    (store / "out.jpg").symlink_to(tmp_path / "secret/1.jpg")
    (store / "out").symlink_to(tmp_path / "secret")
    (store / "folder.jpg").mkdir()
    os.mkfifo(store / "pipe.jpg")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images").symlink_to(store)  # how a download takes a folder in without copying it
    assert read(raw, "1.jpg") == read(raw, "within.jpg") == b"picture"
    for name in ("out.jpg", "out/1.jpg"):
        with pytest.raises(MissingImage, match="link leads out"):
            read(raw, name)
    for name in ("folder.jpg", "pipe.jpg", "n" * 300):
        with pytest.raises((MissingImage, BrokenImage)):
            read(raw, name)


def _place(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _is_picture(name: str) -> bool:
    return not (name.startswith("/") or name.endswith("/") or set(name) <= {"/", "."} or ".." in name.split("/"))


@settings(deadline=None)
@given(
    st.dictionaries(st.text("abc/é.", min_size=1, max_size=12), st.binary(max_size=3000), max_size=8),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=40),
)
@example({"a": b"", "./a": b"1", "b/.//a": b"2", "b/a": b"3"}, zipfile.ZIP_STORED, b"")
@example({"a": b"0", "a/.": b""}, zipfile.ZIP_STORED, b"")
def test_zips_are_read_as_zipfile_reads_them(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], compression: int, front: bytes
) -> None:
    raw = tmp_path_factory.mktemp("raw")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    (raw / "images.zip").write_bytes(front + archive.getvalue())  # a zip may have something in front
    with zipfile.ZipFile(raw / "images.zip") as reader:
        for name in members:
            # Two spellings of one place are one picture: the later one's, as where the zip is unpacked.
            spellings = [other for other in members if _place(other) == _place(name)]
            if all(map(_is_picture, spellings)):
                assert read(raw, name) == reader.read(spellings[-1])


def test_zip64(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(3):  # zip64 fields in the local headers
            with archive.open(zipfile.ZipInfo(f"{number}.jpg"), "w", force_zip64=True) as stream:
                stream.write(b"%d" % number * 1000)
    hole = 5 << 30  # a zip beyond 4 GB has zip64 fields in its directory as well
    with open(tmp_path / "far.zip", "wb") as file:
        file.seek(hole)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("far.jpg", b"far")
            assert archive.getinfo("far.jpg").header_offset == hole
    describe(tmp_path, [{"source": "images.zip"}, {"prefix": "far/", "source": "far.zip"}])
    assert [read(tmp_path, f"{number}.jpg") for number in range(3)] == [b"%d" % number * 1000 for number in range(3)]
    assert read(tmp_path, "far/far.jpg") == b"far"


def test_damaged_members_say_what_is_wrong(tmp_path: Path) -> None:
    rng = random.Random(0)
    picture = rng.randbytes(2000)
    path = write_zip(tmp_path / "images.zip", {"1.jpg": picture, "2.jpg": picture})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("1.jpg").header_offset
    place = ImageIndex(tmp_path).find("1.jpg")
    assert place is not None

    def broken(content: bytes) -> str:
        path.write_bytes(content)
        with ImageReader([path]) as reader, pytest.raises(BrokenImage) as caught:
            reader.read(place)
        return str(caught.value)

    flipped = bytearray(whole)
    flipped[offset + 500] ^= 1
    assert "checksum (CRC)" in broken(bytes(flipped))
    flipped = bytearray(whole)
    flipped[offset] ^= 1
    assert "no header" in broken(bytes(flipped))
    flipped = bytearray(whole)
    flipped[offset + 6] |= 1
    assert "encrypted" in broken(bytes(flipped))
    assert "ends within it" in broken(whole[: offset + 1000])
    assert "ends before its header" in broken(whole[:offset])


def test_a_small_member_can_not_grow_without_bound(tmp_path: Path) -> None:
    bomb = write_zip(tmp_path / "images.zip", {"1.jpg": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(bomb.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 1000)  # the size that the directory admits
    bomb.write_bytes(content)
    with pytest.raises(BrokenImage, match="CRC"):
        read(tmp_path, "1.jpg")
    content[directory + 24 : directory + 28] = struct.pack("<I", 1 << 31)
    bomb.write_bytes(content)
    with pytest.raises(BrokenImage, match="more than"):
        read(tmp_path, "1.jpg")


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "images.zip", {"1.jpg": b"picture" * 100}, zipfile.ZIP_LZMA)
    with pytest.raises(BrokenImage, match="method 14 is not supported"):
        read(tmp_path, "1.jpg")
