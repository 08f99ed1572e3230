"""What the evaluation in training asks, how it scores, and what its page shows."""

import base64
import io

import pytest
import torch
from PIL import Image

from components.data.prompt import PromptFormat, encode_conversation, encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.training.zero_shot import Shown, ask, cider, page
from tests.support.chats import prepared
from tests.support.model_samples import IMAGE
from tests.support.model_world import tokenizer as save_tokenizer

TURNS = [
    {"from": "human", "value": "<image>\nWhat is left of the square?"},
    {"from": "gpt", "value": "a red circle"},
    {"from": "human", "value": "And its colour?"},
    {"from": "gpt", "value": "red"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return prepared(folder, tmp_path_factory.mktemp("prepared"))


def test_it_asks_with_the_pictures_that_stand_before_the_first_answer(tokenizer: ChatTokenizer) -> None:
    pictures = [Image.new("RGB", (48, 24), color) for color in ("red", "green", "blue")]
    turns = [{**TURNS[0], "value": "Is <image> as <image>?"}, TURNS[1], {**TURNS[2], "value": "And <image>?"}, TURNS[3]]
    settings = {"tokenizer": tokenizer, "settings": IMAGE, "prompt_format": "instruct"}
    asked = ask(encode_conversation(turns, pictures, **settings), tokenizer)
    assert asked is not None
    expected = encode_prompt("Is <image> as <image>?", pictures[:2], **settings)
    assert torch.equal(asked[0].tokens, expected.tokens)
    assert torch.equal(asked[0].pixels, expected.pixels)
    later = [{**TURNS[0], "value": "Hm?"}, TURNS[1], {**TURNS[2], "value": "And <image> as <image>?"}, TURNS[3]]
    assert ask(encode_conversation(later, pictures[:2], **settings), tokenizer) is None


@pytest.mark.parametrize(
    ("prompt_format", "turns", "question"),
    [("instruct", TURNS, "What is left of the square?"), ("plain", TURNS[:2], "")],
)
def test_it_asks_as_generation_does_and_expects_the_first_answer(
    tokenizer: ChatTokenizer, prompt_format: PromptFormat, turns: list[dict[str, str]], question: str
) -> None:
    picture = Image.new("RGB", (48, 24), (200, 30, 30))
    settings = {"tokenizer": tokenizer, "settings": IMAGE, "prompt_format": prompt_format}
    asked = ask(encode_conversation(turns, [picture], **settings), tokenizer)
    assert asked is not None
    prompt, shown = asked
    expected = encode_prompt(turns[0]["value"], [picture], **settings)
    assert torch.equal(prompt.tokens, expected.tokens)
    assert torch.equal(prompt.pixels, expected.pixels)
    assert (shown.question, shown.answer) == (question, "a red circle")
    _, _, content = shown.picture.partition("base64,")
    seen = Image.open(io.BytesIO(base64.b64decode(content)))
    assert seen.size == (IMAGE.size, IMAGE.size // 2)  # without the padding
    assert max(abs(found - wanted) for found, wanted in zip(seen.getpixel((5, 5)), (200, 30, 30), strict=True)) < 8


def test_better_descriptions_score_higher() -> None:
    answers = ["A red circle left of a square.", "Two blue dogs on a beach.", "A green train.", "Rain over a city."]
    half = [*answers[:2], *answers[:2]]
    assert cider(answers, answers) > cider(half, answers) > cider(["nothing"] * 4, answers) == 0
    assert cider(["", *answers[1:]], answers) > 0


def test_the_page_shows_text_as_text() -> None:
    content = page("sft", [Shown("<b>?</b>", "a & b", "data:,")], ["</html>"])
    assert "&lt;b&gt;?&lt;/b&gt;" in content
    assert "a &amp; b" in content
    assert content.count("</html>") == 1
