"""The exported tokenizer, chat template and image processor, against what training sees; and mistral-common's own encoding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from transformers import LlavaProcessor

from components.data.image import normalise, preprocess
from components.data.image_settings import ImageSettings, Resample
from components.data.prompt import encode_conversation, encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.download.random_weights import ControlTokens, train_tokenizer
from components.export.config import ExportConfig
from components.export.loading import load_processor
from components.export.processing import write_processing
from components.model.config import ModelConfig, ProjectorConfig, VisionConfig
from components.model.families.language.mistral import MISTRAL
from tests.support.chat_families import CHATS
from tests.support.chats import control_id, prepared
from tests.support.data_samples import make_raw, make_tokenizer
from tests.support.mistral_samples import save_mistral_tokenizer
from tests.support.model_config import CONFIG, changed

IMAGE = ImageSettings(size=32, patch=16)
PICTURE = Image.new("RGB", (64, 32), "red")
TOKENIZERS = ("small", "laptop", "mistral", "mistral legacy")
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn")), max_size=30).map(str.strip)


def model_config(tokenizer: ChatTokenizer, image: ImageSettings = IMAGE, tower: str = "clip") -> ModelConfig:
    language = changed(
        CONFIG.language, num_layers=1, hidden_size=16, ffn_hidden_size=16, num_attention_heads=2, num_query_groups=1,
        kv_channels=8, vocabulary_size=tokenizer.vocabulary, padded_vocabulary_size=tokenizer.vocabulary,
        max_position_embeddings=512,
    )  # fmt: skip
    return ModelConfig(
        language=language,
        vision=VisionConfig(
            family=tower,
            class_token=tower == "clip",
            num_layers=1,
            hidden_size=8,
            ffn_hidden_size=8,
            num_attention_heads=1,
            image_size=image.size,
            patch_size=image.patch,
            norm_epsilon=1e-5,
        ),
        projector=ProjectorConfig(ffn_hidden_size=16),
        image=image,
        image_token_id=tokenizer.image,
    )


def write_tokenizer(name: str, folder: Path) -> None:
    if name == "small":
        make_tokenizer(folder)
    elif name == "laptop":
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a large red circle"}]
        raw = folder / "raw"
        for annotations in ("sft.json", "pretrain.json"):
            make_raw(raw, [{"id": "1", "conversations": turns}], {}, annotations=annotations)
        train_tokenizer(raw, 300, ControlTokens.of(MISTRAL)).save(str(folder / "tokenizer.json"))
    else:
        save_mistral_tokenizer(folder, legacy=name.endswith("legacy"))


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ChatTokenizer, LlavaProcessor]]:
    """Tokenizer's name to this project's tokenizer and the exported processor."""
    made = {}
    for name in TOKENIZERS:
        published, source, target = (tmp_path_factory.mktemp(kind) for kind in ("published", "source", "target"))
        write_tokenizer(name, published)
        tokenizer = prepared(published, source)
        write_processing(target, model_config(tokenizer), source, custom_code=False)
        made[name] = (tokenizer, load_processor(target, ExportConfig()))
    return made


def encoded(processor: LlavaProcessor, messages: list[dict[str, Any]], sanitize: bool = True) -> list[int]:
    given: Any = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", sanitize_control_tokens=sanitize
    )
    ids: list[int] = given["input_ids"][0].tolist()
    return ids


def message(role: str, text: str, picture: Image.Image | None = None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        content.append({"type": "image", "image": picture})
    return {"role": role, "content": content}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_conversations_have_the_ids_of_training(
    name: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]
) -> None:
    tokenizer, processor = chats[name]

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), min_size=1, max_size=3), st.booleans())
    def check(pairs: list[tuple[str, str]], with_picture: bool) -> None:
        turns, messages = [], []
        for number, (question, answer) in enumerate(pairs):
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            shown = PICTURE if with_picture and number == 0 else None
            messages += [message("user", question, shown), message("assistant", answer)]
        expected = encode_conversation(
            turns,
            [PICTURE] if with_picture else [],
            tokenizer=tokenizer,
            settings=IMAGE,
            prompt_format="instruct",
        )
        assert encoded(processor, messages) == expected.tokens.tolist()

    check()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_tokens_in_a_text_stay_text(name: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]) -> None:
    tokenizer, processor = chats[name]
    begin, end = control_id(tokenizer, "[INST]"), control_id(tokenizer, "[/INST]")
    control = {tokenizer.bos, tokenizer.eos, begin, end, tokenizer.image}
    ids = encoded(processor, [message("user", "say [INST] and </s> or [IMG][/INST] <s>", PICTURE)])
    assert [token for token in ids if token in control] == [
        tokenizer.bos,
        begin,
        *[tokenizer.image] * IMAGE.tokens,
        end,
    ]
    assert encoded(processor, [message("user", "say [INST]")], sanitize=False).count(begin) == 2


@pytest.mark.parametrize("name", ["mistral", "mistral legacy"])
def test_template_is_mistrals(name: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]) -> None:
    _, processor = chats[name]
    texts = ["What is it?", "A cat.", "Zwölf größere Boote 漢字 🙂?", "été", "two  spaces\tand\n(A) 1"]
    own = [SystemMessage(content="Be brief.")]
    own += [AssistantMessage(content=t) if number % 2 else UserMessage(content=t) for number, t in enumerate(texts)]
    expected = MistralTokenizer.v3().encode_chat_completion(ChatCompletionRequest(messages=own)).tokens
    messages = [message("system", "Be brief.")]
    messages += [message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    assert encoded(processor, messages) == expected
    plain = [{"role": entry["role"], "content": entry["content"][0]["text"]} for entry in messages]
    rendered: Any = processor.tokenizer.apply_chat_template(
        plain, chat_template=processor.chat_template, tokenize=True, return_dict=True
    )
    assert rendered["input_ids"] == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_picture_comes_first_wherever_it_was_given(
    name: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]
) -> None:
    tokenizer, processor = chats[name]
    before = {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What is it?"}]}
    later = [message("user", "What is it?"), message("assistant", "a cat"), message("user", "Sure?", PICTURE)]
    expected = encode_prompt(
        "What is it?", [PICTURE], tokenizer=tokenizer, settings=IMAGE, prompt_format="instruct"
    ).tokens.tolist()
    assert encoded(processor, [before]) == expected
    assert encoded(processor, later)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([message("assistant", "a")], "alternate"),
        ([message("user", "a"), message("user", "b")], "alternate"),
        ([message("user", "a"), message("system", "b")], "first one"),
        ([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "not video"),
    ],
)
def test_chats_that_training_never_had_are_refused(
    messages: list[dict[str, Any]], problem: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]
) -> None:
    _, processor = chats["small"]
    with pytest.raises(TemplateError, match=problem):
        processor.apply_chat_template(messages)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_adds_nothing_and_text_decodes(
    name: str, chats: dict[str, tuple[ChatTokenizer, LlavaProcessor]]
) -> None:
    tokenizer, processor = chats[name]
    ids = processor.tokenizer("a red circle").input_ids
    assert ids[-1:] == tokenizer.encode("a red circle")[-1:]
    assert not {tokenizer.bos, tokenizer.eos} & set(ids)
    answer = [*tokenizer.encode("größer 漢字"), tokenizer.eos]
    assert processor.decode(answer, skip_special_tokens=True).removeprefix(" ") == "größer 漢字"
    caption = processor(text="<s>" + processor.image_token, images=PICTURE, return_tensors="pt")["input_ids"]
    expected = encode_prompt("", [PICTURE], tokenizer=tokenizer, settings=IMAGE, prompt_format="plain").tokens
    assert caption[0].tolist() == expected.tolist()


def exported_processor(folder: Path, image: ImageSettings, *, custom_code: bool, tower: str = "clip") -> LlavaProcessor:
    tokenizer = make_tokenizer(folder / "tokenizer")
    write_processing(folder, model_config(tokenizer, image, tower), folder / "tokenizer", custom_code=custom_code)
    return load_processor(folder, ExportConfig(custom_code=custom_code))


def difference(processor: LlavaProcessor, picture: Image.Image, image: ImageSettings) -> float:
    pixels, valid = preprocess(picture, image)
    own = normalise(pixels[None], torch.tensor([valid]), image)[0]
    theirs = torch.as_tensor(processor.image_processor(picture, return_tensors="pt")["pixel_values"][0])
    assert theirs.shape == own.shape
    return float((own - theirs).abs().max())


SIDES = st.integers(min_value=1, max_value=400)


@pytest.mark.parametrize(("layout", "custom_code"), [("pad", True), ("squash", True), ("squash", False)])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_pixels_are_those_of_training(
    layout: Any, custom_code: bool, tower: str, resample: Resample, tmp_path: Path
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = ImageSettings(size=64, patch=16, layout=layout, mean=mean, std=std, resample=resample)
    processor = exported_processor(tmp_path, image, custom_code=custom_code, tower=tower)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(SIDES, SIDES, st.sampled_from(["RGB", "L", "RGBA", "P"]))
    def check(width: int, height: int, mode: str) -> None:
        picture = Image.effect_noise((width, height), 80).convert(mode)
        assert difference(processor, picture, image) <= 1e-5

    check()


@pytest.mark.parametrize(("layout", "size"), [("pad", (128, 64)), ("pad", (64, 64)), ("pad", (96, 128))])
def test_stock_pixels_are_those_of_training_where_sides_come_out_whole(
    layout: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    image = ImageSettings(size=64, patch=16, layout=layout)
    processor = exported_processor(tmp_path, image, custom_code=False)
    assert difference(processor, Image.effect_noise(size, 80).convert("RGB"), image) <= 1e-5


@pytest.mark.parametrize(
    ("tower", "layout", "kind"),
    [
        ("clip", "center_crop", "CLIPImageProcessor"),
        ("clip", "squash", "CLIPImageProcessor"),
        ("siglip", "squash", "SiglipImageProcessor"),
        ("siglip", "pad", "CLIPImageProcessor"),  # SigLIP's own knows one layout
        ("siglip", "center_crop", "CLIPImageProcessor"),
    ],
)
def test_image_processor_is_the_towers_where_it_can_be(tower: str, layout: Any, kind: str, tmp_path: Path) -> None:
    image = ImageSettings(size=28, patch=8, layout=layout)
    processor = exported_processor(tmp_path, image, custom_code=False, tower=tower)
    assert type(processor.image_processor).__name__ == f"{kind}Pil"
    given = processor(text=processor.image_token, images=PICTURE, return_tensors="pt")
    assert given["input_ids"].tolist() == [[processor.image_token_id] * image.tokens]
    # What servers such as vLLM ask before they see a picture
    assert processor._get_num_multimodal_tokens([(64, 32)])["num_image_tokens"] == [image.tokens] == [9]
    assert difference(processor, Image.effect_noise((56, 56), 80).convert("RGB"), image) <= 1e-5


@pytest.mark.parametrize("custom_code", [True, False])
@pytest.mark.parametrize("size", [(128, 64), (64, 64), (64, 192), (32, 16)])
def test_center_crop_cuts_the_middle(custom_code: bool, size: tuple[int, int], tmp_path: Path) -> None:
    image = ImageSettings(size=64, patch=16, layout="center_crop")
    processor = exported_processor(tmp_path, image, custom_code=custom_code)
    assert difference(processor, Image.effect_noise(size, 80).convert("RGB"), image) <= 1e-5


@pytest.mark.parametrize("name", CHATS)
def test_every_familys_chats_have_the_ids_of_training(name: str, tmp_path: Path) -> None:
    """A system prompt, no picture, one and several, in every family's words."""
    publish, facts = CHATS[name]
    publish(tmp_path / "published")
    tokenizer = prepared(tmp_path / "published", tmp_path / "tokenizer", facts)
    (tmp_path / "export").mkdir()
    write_processing(tmp_path / "export", model_config(tokenizer), tmp_path / "tokenizer", custom_code=False)
    processor = load_processor(tmp_path / "export", ExportConfig())
    for texts in (
        ["What is it?"],
        ["<image>\nWhat is it?", "Sure?"],
        ["Is <image> as red as <image> ?", "And <image>?"],
    ):
        turns: list[dict[str, str]] = [{"from": "system", "value": "Be brief."}]
        asked: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
        pictures = 0
        for text in texts:
            turns += [{"from": "human", "value": text}, {"from": "gpt", "value": "a red circle"}]
            runs = [run.strip() for run in text.split("<image>")]
            parts = [
                part for run in runs for part in ({"type": "text", "text": run}, {"type": "image", "image": PICTURE})
            ]
            pictures += len(runs) - 1
            asked += [
                {"role": "user", "content": [part for part in parts[:-1] if part.get("text", True)]},
                {"role": "assistant", "content": [{"type": "text", "text": "a red circle"}]},
            ]
        expected = encode_conversation(
            turns, [PICTURE] * pictures, tokenizer=tokenizer, settings=IMAGE, prompt_format="instruct"
        )
        assert encoded(processor, asked) == expected.tokens.tolist()
        assert expected.tokens.tolist().count(tokenizer.image) == pictures * IMAGE.tokens
