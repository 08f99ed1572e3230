import io
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.entry import check_text, named_pictures, printable
from components.data.image_roots import ImageIndex, ImageReader
from components.data.names import canonical_name
from components.errors import InputError

PART = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..")
)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("x//y/./a.jpg", "x/y/a.jpg"),
        ("a.jpg/.", "a.jpg"),
        ("x\\y\\a.jpg", "x/y/a.jpg"),
        (".\\a.jpg", "a.jpg"),
        (unicodedata.normalize("NFD", "été.jpg"), unicodedata.normalize("NFC", "été.jpg")),
        ("/a.jpg", "/a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("a b.jpg ", "a b.jpg "),
    ],
)
def test_spellings_of_one_name(spelled: str, name: str) -> None:
    assert canonical_name(spelled) == name


@given(st.lists(PART, min_size=1, max_size=4), st.data())
def test_any_spelling_of_a_path_has_the_same_name(parts: list[str], data: st.DataObject) -> None:
    name = canonical_name("/".join(parts))
    assert canonical_name(name) == name
    respelled = data.draw(st.sampled_from(["", "./", ".//./"])) + parts[0]
    for part in parts[1:]:
        respelled += data.draw(st.sampled_from(["/", "//", "\\", "/./"])) + part
    form = data.draw(st.sampled_from(["NFC", "NFD"]))
    assert canonical_name(unicodedata.normalize(form, respelled)) == name  # type: ignore[arg-type]


@given(st.text("ab./\\", max_size=12))
def test_a_name_has_the_parts_that_its_path_has(name: str) -> None:
    found = canonical_name(name)
    assert canonical_name(found) == found
    parts = PurePosixPath(name.replace("\\", "/")).parts
    assert [part for part in found.split("/") if part] == [part for part in parts if part.strip("/")]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_stored_names_may_be_spelled_in_any_way(zipped: bool, form: str, tmp_path: Path) -> None:
    stored = unicodedata.normalize(form, "été/a.jpg")  # type: ignore[arg-type]
    if zipped:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            archive.writestr(stored.replace("/", "\\"), b"picture")
    else:
        (tmp_path / "images" / stored).parent.mkdir(parents=True)
        (tmp_path / "images" / stored).write_bytes(b"picture")
    index = ImageIndex(tmp_path)
    with ImageReader(index.sources) as reader:
        for asked in ("NFC", "NFD"):
            place = index.find("./" + unicodedata.normalize(asked, "été\\a.jpg"))  # type: ignore[arg-type]
            assert place is not None
            assert reader.read(place) == b"picture"


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({}, None),
        ({"image": None}, None),
        ({"image": ""}, None),
        ({"image": []}, None),
        ({"image": "./x/a.jpg"}, "x/a.jpg"),
        ({"image": ["a.jpg"]}, "a.jpg"),
        ({"image": [""]}, None),
        ({"image": [None]}, None),
    ],
)
def test_picture_of_an_entry(entry: dict[str, object], name: str | None) -> None:
    assert named_pictures(entry) == ((name,) if name else ())


@pytest.mark.parametrize(("entry", "reason"), [("text", "JSON object"), ({"image": 3}, "path of a picture")])
def test_entries_whose_picture_is_no_name(entry: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        named_pictures(entry)


def test_pictures_of_an_entry() -> None:
    assert named_pictures({"image": ["./a.jpg", "x\\b.png", "a.jpg"]}) == ("a.jpg", "x/b.png", "a.jpg")
    assert named_pictures({"image": None}) == ()
    with pytest.raises(InputError, match="list of such, not ''"):
        named_pictures({"image": ["a.jpg", ""]})


def test_half_of_a_surrogate_pair_is_found_and_can_be_shown() -> None:
    check_text({"text": ["🙂", "\u2028"]})
    with pytest.raises(InputError, match=r"\\ud83d.*after '.*nice '"):
        check_text({"text": ["nice \ud83d"]})
    text = printable("nice \ud83d")
    io.StringIO().write(text)
    assert text.encode().decode() == "nice \\ud83d"
