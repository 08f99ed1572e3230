"""Layouts: spellings that people use, and what any row gives: a sample whose markers fit its pictures, or a reason."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.conversation import IMAGE_MARKER
from components.errors import InputError
from components.sources.layouts.registry import LAYOUTS, recognise
from components.sources.sample import CAPTION_PROMPT, Sample, pictures_of

PICTURE = b"\xff\xd8\xff picture"
BASE64 = base64.b64encode(PICTURE).decode()
URL = "https://example.org/a.jpg"


def samples(row: dict[str, Any]) -> list[Sample]:
    return recognise([row], "a test")[0].samples(row)


def only(row: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """Return the pictures and the texts of the only sample of a row."""
    (sample,) = samples(row)
    return list(sample.pictures), [turn["value"] for turn in sample.conversation]


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": list(parts)},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ],
        **more,
    }


@pytest.mark.parametrize(
    ("part", "picture"),
    [
        ({"type": "image", "image": {"bytes": PICTURE, "path": None}}, PICTURE),
        ({"type": "image", "image": "a/b.jpg"}, "a/b.jpg"),
        ({"type": "image", "path": "a/b.jpg"}, "a/b.jpg"),
        ({"type": "image", "url": URL}, URL),
        ({"type": "image", "base64": BASE64}, f"data:;base64,{BASE64}"),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "high"}}, URL),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}},
            f"data:image/png;base64,{BASE64}",
        ),
        ({"type": "input_image", "image_url": URL}, URL),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}},
            f"data:;base64,{BASE64}",
        ),
        ({"type": "image", "text": None, "image": None, "url": URL}, URL),  # arrow gives every part all keys
    ],
)
def test_pictures_in_parts(part: dict[str, Any], picture: Any) -> None:
    row = chat({"type": "text", "text": "Is "}, part, {"type": "text", "text": "this red?"})
    assert only(row) == ([picture], ["Is <image>\nthis red?", "yes"])


def test_pictures_beside_the_messages_in_order() -> None:
    row = chat(
        {"type": "image"}, {"type": "text", "text": "or"}, {"type": "image", "index": 1}, images=["a.jpg", "b.jpg"]
    )
    assert only(row) == (["a.jpg", "b.jpg"], ["<image>\nor<image>", "yes"])
    with pytest.raises(InputError, match="1 parts of the messages ask for a picture of the column, which has 2"):
        samples(chat({"type": "image"}, {"type": "text", "text": "x"}, images=["a.jpg", "b.jpg"]))
    with pytest.raises(InputError, match="has no picture, and there is none in a column"):
        samples(chat({"type": "image"}, {"type": "image"}, images=["a.jpg"]))


def test_messages_of_texts_with_markers() -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>What is it?<image>"},
            {"role": "assistant", "content": "two"},
        ],
        "images": ["a.jpg", "b.jpg"],
    }
    assert only(row) == (["a.jpg", "b.jpg"], ["Be brief.", "<image>What is it?<image>", "two"])


def test_contents_that_are_stored_as_json() -> None:
    row = chat(images=["a.jpg"])
    row["messages"][0]["content"] = '[{"type": "image"}, {"type": "text", "text": "hm?"}]'
    assert only(row) == (["a.jpg"], ["<image>\nhm?", "yes"])


def test_what_looks_like_a_marker_beside_parts_is_none() -> None:
    row = chat({"type": "image", "url": URL}, {"type": "text", "text": "What does <image> mean in HTML?"})
    assert only(row)[1][0].count(IMAGE_MARKER) == 1


@pytest.mark.parametrize("nothing", [None, "", []])
def test_no_picture_is_text_alone(nothing: Any) -> None:
    for row in (
        {"image": nothing, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"images": nothing, "texts": [{"user": "Hi", "assistant": "Hello"}]},
        {"image": nothing, "question": "Hi", "answer": "Hello"},
    ):
        assert only(row) == ([], ["Hi", "Hello"])


def test_a_list_of_one_picture_is_one_picture() -> None:
    for images in ("a.jpg", ["a.jpg"], {"bytes": None, "path": "a.jpg"}, [{"path": "a.jpg", "bytes": None}]):
        row = {"image": images, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
        assert only(row) == (["a.jpg"], ["<image>\nHi", "Hello"])


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"image": PICTURE, "caption": "a"}, ["a"]),
        ({"image": PICTURE, "text": "a"}, ["a"]),
        ({"image": PICTURE, "TEXT": "a"}, ["a"]),
        ({"image": PICTURE, "caption": ["a", "b", "a ", ""]}, ["a", "b"]),
        ({"image": PICTURE, "sentences": [{"raw": "a"}, {"raw": "b"}]}, ["a", "b"]),
        ({"image": PICTURE, **{f"caption_{k}": f"{k}" for k in range(5)}}, list("01234")),
        ({"image": PICTURE, "text": "from OCR", "caption": "a"}, ["a"]),
    ],
)
def test_captions_by_any_name(row: dict[str, Any], texts: list[str]) -> None:
    found = samples(row)
    assert [sample.conversation[1]["value"] for sample in found] == texts
    assert all(sample.conversation[0]["value"] == f"<image>\n{CAPTION_PROMPT}" for sample in found)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {
                "image": "a",
                "conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "x"}],
            },
            "2 markers <image> for 1 pictures",
        ),
        (
            {"image": "a", "conversations": [{"from": "human", "value": "x"}]},
            "the last turn of the conversation is the human's",
        ),
        ({"image": "a", "conversations": [{"from": "gpt", "value": "x"}]}, "turn 1 of the conversation is from gpt"),
        (
            {"image": "a", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]},
            "answer 1 of the conversation is empty",
        ),
        (
            {"conversation": [{"from": "user", "value": "x"}, {"from": "tool", "value": "y"}]},
            "a turn from 'tool'; known are system",
        ),
        ({"image": "a", "caption": ["", "  "]}, "there is no caption"),
        ({"image": ["a", "b"], "caption": "x"}, "a caption belongs to one picture, there are 2"),
        ({"image": 5, "caption": "x"}, "a picture must be bytes, a path, a URL, or an object with them, not int"),
        (chat({"type": "video", "video": "a.mp4"}), "a part of type 'video'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        samples(row)


def test_unknown_columns_are_named_with_what_is_known() -> None:
    with pytest.raises(InputError, match=r"columns a, b, which no layout knows: shards .*captions .*mapping"):
        recognise([{"a": 1, "b": 2}], "x")


def test_empty_cells_of_the_first_rows_don_t_hide_a_layout() -> None:
    rows = [{"image": None, "conversations": []}, {"image": "a", "conversations": [{"from": "human", "value": "x"}]}]
    assert recognise(rows, "x")[0].name == "llava"


_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=4) | st.just("<image>")
_CELLS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "from",
                    "value",
                    "role",
                    "content",
                    "type",
                    "text",
                    "image",
                    "image_url",
                    "url",
                    "bytes",
                    "path",
                    "user",
                    "assistant",
                    "source",
                ]
            ),
            inner | st.sampled_from(["human", "gpt", "user", "assistant", "text", "image", "image_url"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
_COLUMNS = [
    "image",
    "images",
    "conversations",
    "conversation",
    "messages",
    "texts",
    "caption",
    "text",
    "question",
    "answer",
    "jpg",
    "txt",
    "json",
    "__key__",
]


@given(st.dictionaries(st.sampled_from(_COLUMNS), _CELLS, max_size=5))
def test_any_row_is_samples_or_a_reason(row: dict[str, Any]) -> None:
    for layout in LAYOUTS:
        try:
            layout.columns(row)
            found = layout.samples(row)
        except InputError:
            continue
        for sample in found:
            humans = [turn["value"] for turn in sample.conversation if turn["from"] == "human"]
            answers = [turn["value"] for turn in sample.conversation if turn["from"] == "gpt"]
            assert len(humans) == len(answers) > 0
            assert all(answer.strip() for answer in answers)
            assert sum(text.count(IMAGE_MARKER) for text in humans) == len(sample.pictures)
            assert all(isinstance(picture, bytes | str) and picture for picture in sample.pictures)


_PAIRS = st.lists(
    st.tuples(st.text("abc ?", max_size=10), st.text("xyz ", min_size=1, max_size=10).filter(str.strip)),
    min_size=1,
    max_size=4,
)


@given(_PAIRS, st.lists(st.binary(min_size=1, max_size=5), max_size=3))
def test_the_same_talk_in_every_chat_layout_is_the_same_sample(
    pairs: list[tuple[str, str]], pictures: list[bytes]
) -> None:
    turns = [("human", "gpt"), ("user", "assistant")]
    spellings = [
        {
            "image": pictures,
            "conversations": [
                {"from": who, "value": text} for pair in pairs for who, text in zip(turns[0], pair, strict=True)
            ],
        },
        {
            "images": pictures,
            "conversation": [
                {"from": who, "value": text} for pair in pairs for who, text in zip(turns[1], pair, strict=True)
            ],
        },
        {
            "images": pictures,
            "messages": [
                {"role": who, "content": text} for pair in pairs for who, text in zip(turns[1], pair, strict=True)
            ],
        },
        {"images": pictures, "texts": [{"user": asked, "assistant": answer} for asked, answer in pairs]},
    ]
    found = [samples(row) for row in spellings]
    assert all(one == found[0] for one in found)
    assert pictures_of(pictures) == list(found[0][0].pictures)
