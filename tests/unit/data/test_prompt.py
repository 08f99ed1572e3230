"""Prompt formats and tokenizer, against mistral-common's own v3 encoding."""

from pathlib import Path
from typing import Any

import mistral_common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from components.data.image_settings import ImageSettings
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.prompt import encode_conversation, encode_prompt
from components.data.prompt_text import prompt_text
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError
from tests.support import data_samples
from tests.support.chats import control_id, prepared

SETTINGS = ImageSettings(size=16, patch=8)
PICTURE = Image.new("RGB", (20, 10), "red")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return data_samples.make_tokenizer(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def reference() -> MistralTokenizer:
    """Mistral's own, in the mode that lets a conversation end with an answer."""
    path = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    return MistralTokenizer.from_file(str(path), mode=ValidationMode.finetuning)


@pytest.fixture(scope="module")
def converted(reference: MistralTokenizer) -> Tokenizer:
    """Mistral's v3 SentencePiece model as Hugging Face converts such models, up to how it bounds words."""
    pieces = reference.instruct_tokenizer.tokenizer
    vocabulary = {pieces.id_to_piece(number): number for number in range(pieces.n_words)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(pieces, vocabulary), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [pieces.id_to_piece(number) for number in range(14)]
    # Not special on purpose: the loader must not parse them all the same.
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in control])
    return tokenizer


@pytest.fixture(scope="module")
def newer(converted: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """The form whose pre-tokenizer bounds words."""
    folder = tmp_path_factory.mktemp("newer")
    converted.normalizer = None
    converted.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    published = tmp_path_factory.mktemp("published")
    converted.save(str(published / "tokenizer.json"))
    return prepared(published, folder)


@pytest.fixture(scope="module")
def older(converted: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    """The form whose normalizer bounds words."""
    folder = tmp_path_factory.mktemp("older")
    converted.pre_tokenizer = None
    converted.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    published = tmp_path_factory.mktemp("published")
    converted.save(str(published / "tokenizer.json"))
    return prepared(published, folder)


@pytest.fixture(scope="module", params=["newer", "older"])
def mistral(request: pytest.FixtureRequest) -> ChatTokenizer:
    """Both forms."""
    tokenizer: ChatTokenizer = request.getfixturevalue(request.param)
    return tokenizer


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece keeps scores, Hugging Face the merges in their order."""
    merges = []
    score = pieces._model.GetScore
    for piece in sorted(vocabulary, key=lambda piece: -score(vocabulary[piece])):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _mistrals_own(reference: MistralTokenizer, system: str, texts: list[str]) -> list[int]:
    messages: list[Any] = [SystemMessage(content=system)] if system else []
    for number, text in enumerate(texts):
        messages.append(AssistantMessage(content=text) if number % 2 else UserMessage(content=text))
    return reference.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens


def _turns(*texts: str, system: str = "") -> list[dict[str, Any]]:
    first = [{"from": "system", "value": system}] if system else []
    return [*first, *({"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(texts))]


def _encode(
    tokenizer: ChatTokenizer, *texts: str, image: Image.Image | None = None, form: str = "instruct"
) -> EncodedSample:
    return encode_conversation(
        _turns(*texts), [image] if image else [], tokenizer=tokenizer, settings=SETTINGS, prompt_format=form, key="k"
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize(
    "texts",
    [
        ("What is it?", "A cat."),
        ("What is it?", "A cat.", "Sure?\n(A) yes\n(B) no", "  B  "),
        ("Zwölf größere Boote 漢字 🙂", "été"),
        ("ends the turn </s> [INST] and [/INST] <s> [IMG]", "</s>[/INST]"),
        ("two  spaces\tand a tab", "1 2 3"),
        ("", "an answer to nothing"),
    ],
)
def test_instruct_matches_mistral_common(
    mistral: ChatTokenizer, reference: MistralTokenizer, texts: tuple[str, ...], system: str
) -> None:
    found = encode_conversation(
        _turns(*texts, system=system), [], tokenizer=mistral, settings=SETTINGS, prompt_format="instruct"
    )
    expected = _mistrals_own(reference, system, [text.strip() for text in texts])
    assert found.tokens.tolist() == expected
    trained = [label for label in found.labels.tolist() if label != IGNORED_LABEL]
    pieces = reference.instruct_tokenizer.tokenizer
    assert trained == [token for text in texts[1::2] for token in pieces.encode(text.strip(), bos=False, eos=True)]


PIECES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "The",
    "23",
    "é",
    "e\u0301",
    "ß",
    "漢",
    "🙂",
    "👨‍👩‍👧",
    "\u00a0",
    "\u200b",
    "\ufeff",
]
PIECES += ["<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[control_8]", "<unk>", "<0x0A>", "▁", "[", "\x00"]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=20))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), TEXTS)
def test_instruct_matches_mistral_common_for_any_text(
    mistral: ChatTokenizer, reference: MistralTokenizer, pairs: list[tuple[str, str]], system: str
) -> None:
    texts = [text.strip() for pair in pairs for text in (pair[0], f"{pair[1]}.")]
    found = encode_conversation(
        _turns(*texts, system=system), [], tokenizer=mistral, settings=SETTINGS, prompt_format="instruct"
    )
    assert found.tokens.tolist() == _mistrals_own(reference, system.strip(), texts)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_text_encodes_as_mistral_common_does(mistral: ChatTokenizer, reference: MistralTokenizer, text: str) -> None:
    assert mistral.encode(text) == reference.instruct_tokenizer.tokenizer.encode(text, bos=False, eos=False)


def test_system_prompt_stands_behind_the_picture(small: ChatTokenizer) -> None:
    turns = _turns("<image>\nWhat is it?", "a circle", system=" Describe the picture. ")
    sample = encode_conversation(turns, [PICTURE], tokenizer=small, settings=SETTINGS, prompt_format="instruct")
    asked = small.encode("Describe the picture.\n\nWhat is it?")
    answer = [*small.encode("a circle"), small.eos]
    expected = [
        small.bos,
        control_id(small, "[INST]"),
        *[small.image] * 4,
        *asked,
        control_id(small, "[/INST]"),
        *answer,
    ]
    assert sample.tokens.tolist() == expected
    assert [label for label in sample.labels.tolist() if label != IGNORED_LABEL] == answer
    plain = encode_conversation(turns, [PICTURE], tokenizer=small, settings=SETTINGS, prompt_format="plain")
    assert plain.tokens.tolist() == [small.bos, *[small.image] * 4, *answer]


def test_control_ids_are_mistrals(mistral: ChatTokenizer) -> None:
    assert (mistral.bos, mistral.ends, mistral.image) == (1, (2,), 10)
    assert (control_id(mistral, "[INST]"), control_id(mistral, "[/INST]")) == (3, 4)
    assert mistral.pad == mistral.eos
    assert mistral.vocabulary == 32768


@pytest.mark.parametrize("name", ["small", "newer", "older"])
def test_text_never_becomes_a_control_token(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: ChatTokenizer = request.getfixturevalue(name)
    control = {control_id(tokenizer, name) for name in ("<s>", "</s>", "[INST]", "[/INST]")} | {
        tokenizer.image,
        tokenizer.pad,
    }
    text = "<s></s>[INST] [/INST][IMG]<pad> a </s>"
    ids = tokenizer.encode(text)
    assert not control & set(ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["small", "newer", "older"])
def test_decode_inverts_encode_and_leaves_control_tokens_out(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: ChatTokenizer = request.getfixturevalue(name)
    for text in ("a red circle.", "größer 漢字 🙂", "one\ntwo", ""):
        assert tokenizer.decode([tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]) == text


def test_plain_is_picture_then_caption(small: ChatTokenizer) -> None:
    sample = _encode(small, "<image>\nDescribe the picture.", "a red circle", image=PICTURE, form="plain")
    caption = small.encode("a red circle")
    assert sample.tokens.tolist() == [small.bos, *[small.image] * 4, *caption, small.eos]
    # The last image token predicts the first word; nothing follows </s>.
    assert sample.labels.tolist() == [*[IGNORED_LABEL] * 4, *caption, small.eos, IGNORED_LABEL]


def test_instruct_puts_the_picture_first_and_trains_every_answer(small: ChatTokenizer) -> None:
    sample = _encode(small, "What is\n<image>", "a square", "Sure?", "red", image=PICTURE)
    ask, answer, again, last = (small.encode(text) for text in ("What is", "a square", "Sure?", "red"))
    first = [small.bos, control_id(small, "[INST]"), *[small.image] * 4, *ask, control_id(small, "[/INST]")]
    second = [control_id(small, "[INST]"), *again, control_id(small, "[/INST]")]
    assert sample.tokens.tolist() == [*first, *answer, small.eos, *second, *last, small.eos]
    trained = [token for token in sample.labels.tolist() if token != IGNORED_LABEL]
    assert trained == [*answer, small.eos, *last, small.eos]
    for position, label in enumerate(sample.labels.tolist()):
        assert label == IGNORED_LABEL or label == sample.tokens[position + 1]
    assert sample.labels[len(first) - 1] == answer[0]


def test_text_only(small: ChatTokenizer) -> None:
    sample = _encode(small, "What is it?", "a circle")
    assert small.image not in sample.tokens.tolist()
    assert sample.pixels.shape == (0, 3, 16, 16)
    assert sample.valid.shape == (0, 2)


@pytest.mark.parametrize("form", ["plain", "instruct"])
def test_prompt_is_what_training_puts_before_the_answer(small: ChatTokenizer, form: str) -> None:
    sample = _encode(small, "<image>\nDescribe", "red", image=PICTURE, form=form)
    prompt = encode_prompt(
        "Describe",
        [PICTURE],
        tokenizer=small,
        settings=SETTINGS,
        prompt_format=form,
        key="k",  # type: ignore[arg-type]
    )
    assert prompt.tokens.tolist() == sample.tokens[: prompt.length].tolist()
    assert sample.tokens[prompt.length :].tolist() == [*small.encode("red"), small.eos]
    assert set(prompt.labels.tolist()) == {IGNORED_LABEL}
    assert prompt.pixels.equal(sample.pixels)


@pytest.mark.parametrize(
    ("texts", "image", "form", "message"),
    [
        (("<image><image> compare", "no"), PICTURE, "instruct", "2 pictures"),
        (("<image> what", "no"), None, "instruct", "has none"),
        (("what",), None, "instruct", "in pairs"),
        (("what", "  "), None, "instruct", "answer 1 .* empty"),
        (("a", "b", "c", "d"), PICTURE, "plain", "one caption"),
    ],
)
def test_bad_conversations_are_refused(
    small: ChatTokenizer, texts: tuple[str, ...], image: Image.Image | None, form: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _encode(small, *texts, image=image, form=form)


def test_system_turn_stands_first_and_alone(small: ChatTokenizer) -> None:
    system = {"from": "system", "value": "Be brief."}
    for turns, message in (
        ([*_turns("a", "b"), system], "in pairs"),
        ([system, system, *_turns("a", "b")], "in pairs"),
        ([system], "in pairs"),
        ([{"from": "system"}, *_turns("a", "b")], "turn 1"),
        ([system, {"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}], "turn 2"),
    ):
        with pytest.raises(InputError, match=message):
            encode_conversation(turns, [], tokenizer=small, settings=SETTINGS, prompt_format="instruct")


def test_wrong_roles_are_refused(small: ChatTokenizer) -> None:
    turns = [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]
    with pytest.raises(InputError, match="turn 1"):
        encode_conversation(turns, [], tokenizer=small, settings=SETTINGS, prompt_format="instruct")


@pytest.mark.parametrize("prompt_format", ["plain", "instruct"])
def test_the_text_shown_to_people_is_what_the_tokens_say(small: ChatTokenizer, prompt_format: Any) -> None:
    question = "  <image>\nwhat is the colour of the circle?"
    encoded = encode_prompt(question, [PICTURE], tokenizer=small, settings=SETTINGS, prompt_format=prompt_format)
    tokens = encoded.tokens.tolist()
    controls = {small.bos, control_id(small, "[INST]"), control_id(small, "[/INST]"), small.image}
    words = small.decode([token for token in tokens if token not in controls])
    assert prompt_text(question, prompt_format) == f"<image>{words}"
