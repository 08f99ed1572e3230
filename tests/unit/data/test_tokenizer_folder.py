"""What becomes of published tokenizers, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from components.data.chat import ChatFacts
from components.data.tokenizer import ChatTokenizer
from components.data.tokenizer_folder import prepare_tokenizer
from components.errors import InputError
from components.model.families.language.mistral import MISTRAL

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
FACTS = ChatFacts(end_tokens=("<|im_end|>",))


def publish(folder: Path, template: str | None = CHATML, control: tuple[str, ...] = CONTROL, **settings: Any) -> Path:
    """Save a byte-level tokenizer without merges, as people publish it."""
    folder.mkdir(exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(control))
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {**settings} if template is None else {"chat_template": template, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


def test_what_files_leave_open_is_settled(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    found = prepare_tokenizer(source, tmp_path / "made", FACTS)
    assert (found.image, found.image_name, found.added_image, found.vocabulary) == (259, "<image>", True, 260)
    assert (found.template, found.reason) == ("own", "")
    chat = ChatTokenizer.load(tmp_path / "made")
    assert (chat.bos, chat.eos, chat.ends, chat.pad, chat.image) == (None, 257, (257, 258), 258, 259)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id, theirs.image_token_id) == (
        257,
        258,
        None,
        259,
    )
    generation = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [257, 258], "pad_token_id": 258}


def test_image_token_is_one_of_the_family_where_the_tokenizer_has_it(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", control=(*CONTROL, "<|image_pad|>"), eos_token="<|im_end|>")
    found = prepare_tokenizer(source, tmp_path / "made", ChatFacts(image_tokens=("[IMG]", "<|image_pad|>")))
    assert (found.image, found.image_name, found.added_image) == (259, "<|image_pad|>", False)


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "several"])
def test_template_is_found_wherever_transformers_looks(tmp_path: Path, place: str) -> None:
    source = publish(tmp_path / "source", None, eos_token="<|im_end|>")
    if place == "several":
        listed = [{"name": "rag", "template": "no"}, {"name": "default", "template": CHATML}]
        (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    else:
        (source / place).write_text(json.dumps({"chat_template": CHATML}) if place.endswith("json") else CHATML)
    assert prepare_tokenizer(source, tmp_path / "made", FACTS).template == "own"


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "left").write_text("")
    prepare_tokenizer(publish(tmp_path / "source"), tmp_path / "made", FACTS)
    assert not (tmp_path / "made" / "left").exists()


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system prompt.') }}{% endif %}" + CHATML
ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('One turn only.') }}{% endif %}" + CHATML
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML
WITHOUT_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
NEVER_ENDED = CHATML.replace("<|im_end|>", "")
OTHER_HISTORY = CHATML.replace(
    "+ m['content']", "+ ('' if loop.last or m['role'] != 'assistant' else 'So: ') + m['content']"
)
OPEN_THOUGHTS = CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (NO_SYSTEM, "No system prompt"),
        (ONE_TURN, "One turn only"),
        (DATED, "today's date"),
        (WITHOUT_SYSTEM, "the system prompt 0 times"),
        (NEVER_ENDED, "after an answer"),
        (OTHER_HISTORY, "something else before an answer"),
        (OPEN_THOUGHTS, "something else before an answer"),
        ("{{ messages[0].nothing.at_all }}", "fails"),
        ("{% for", "fails"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused_by_name(
    template: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepare_tokenizer(publish(tmp_path / "source", template), tmp_path / "made", FACTS)
    assert str(tmp_path / "source") in str(caught.value)


def test_tokenizers_that_cannot_serve_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        prepare_tokenizer(tmp_path, tmp_path / "made", FACTS)
    (tmp_path / "tokenizer.model").write_text("")
    with pytest.raises(InputError, match=r"It has tokenizer\.model: transformers' AutoTokenizer"):
        prepare_tokenizer(tmp_path, tmp_path / "made", FACTS)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        prepare_tokenizer(tmp_path, tmp_path / "made", FACTS)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a Hugging Face fast tokenizer"):
        prepare_tokenizer(tmp_path, tmp_path / "made", FACTS)
    with pytest.raises(InputError, match="no token that ends an answer"):
        prepare_tokenizer(publish(tmp_path / "endless"), tmp_path / "made", ChatFacts())


def test_folder_that_no_conversion_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ChatTokenizer.load(tmp_path)
    publish(tmp_path)
    with pytest.raises(InputError, match="has to be converted again"):
        ChatTokenizer.load(tmp_path)


def test_mistral_without_control_tokens_gets_its_early_form(tmp_path: Path) -> None:
    """v0.1 and v0.2 write [INST] as text."""
    source = publish(tmp_path / "source", None, ("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    assert prepare_tokenizer(source, tmp_path / "made", MISTRAL.chat).template == "mistral_text"
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "made")
    chat = [
        {"role": role, "content": text}
        for role, text in (("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"))
    ]
    assert theirs.apply_chat_template(chat, tokenize=False) == "<s>[INST] s\n\nu [/INST] a</s>[INST] v [/INST]"
