"""What every family's chats become, against transformers' own `apply_chat_template`."""

import random
import re
import unicodedata
from typing import Any, NamedTuple

import jinja2
import pytest
from jinja2 import nodes
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from components.data.image_settings import ImageSettings
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.prompt import encode_conversation, encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.data.tokenizer_folder import PreparedTokenizer, prepare_tokenizer
from tests.support.chat_families import CHATS

IMAGE = ImageSettings(size=16, patch=8)
PICTURE = Image.new("RGB", (20, 10), "red")
WORDS = [
    "What",
    "is",
    "a",
    "red",
    "circle",
    "12",
    "(A)",
    "yes.",
    "it's",
    "漢字",
    "größer",
    "🙂",
    "\n",
    "\n\n",
    "  ",
    "...",
    "{x}",
    "e\u0301",
]
SPELLED = [
    "<|im_end|>",
    "<|im_start|>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<|eot_id|>",
    "<think>",
    "</think>",
    "<|image_pad|>",
    "<|endoftext|>",
]


class Chat(NamedTuple):
    """What was prepared, the tokenizer of its folder, ours and transformers', and transformers' of the published one."""

    made: PreparedTokenizer
    ours: ChatTokenizer
    theirs: Any
    published: Any


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chat]:
    made = {}
    for name, (publish, facts) in CHATS.items():
        source, target = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("prepared")
        publish(source)
        settled = prepare_tokenizer(source, target, facts)
        published = PreTrainedTokenizerFast.from_pretrained(source)
        made[name] = Chat(settled, ChatTokenizer.load(target), AutoTokenizer.from_pretrained(target), published)
    return made


def text(rng: random.Random, words: list[str], least: int) -> str:
    made = " ".join(rng.choice(words) for _ in range(rng.randrange(least, 8)))
    return made.strip() or "red"


def conversation(rng: random.Random, words: list[str] = WORDS) -> tuple[str, list[tuple[str, str]]]:
    system = text(rng, words, 1) if rng.random() < 0.4 else ""
    return system, [(text(rng, words, 1), text(rng, words, 1)) for _ in range(rng.randrange(1, 4))]


def llava(system: str, pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    turns = [{"from": "system", "value": system}] if system else []
    for human, answer in pairs:
        turns += [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
    return turns


def messages(system: str, pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in llava(system, pairs)]


def encoded(tokenizer: ChatTokenizer, system: str, pairs: list[tuple[str, str]]) -> EncodedSample:
    return encode_conversation(llava(system, pairs), [], tokenizer=tokenizer, settings=IMAGE, prompt_format="instruct")


def same_text(decoded: str, text: str) -> bool:
    """Whether a text came back; some tokenizers compose accents."""
    return unicodedata.normalize("NFC", decoded.strip()) == unicodedata.normalize("NFC", text)


def learnt(sample: EncodedSample) -> list[list[int]]:
    """The runs of tokens that are learnt."""
    runs: list[list[int]] = [[]]
    for label in sample.labels.tolist():
        if label != IGNORED_LABEL:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


@pytest.mark.parametrize("name", CHATS)
def test_conversations_are_transformers_token_for_token(name: str, chats: dict[str, Chat]) -> None:
    chat, rng = chats[name], random.Random(1)
    for _ in range(100):
        system, pairs = conversation(rng)
        sample = encoded(chat.ours, system, pairs)
        found = chat.theirs.apply_chat_template(messages(system, pairs), return_dict=True)["input_ids"]
        assert sample.tokens.tolist() == found


@pytest.mark.parametrize("name", CHATS)
def test_one_turn_is_the_published_templates(name: str, chats: dict[str, Chat]) -> None:
    """What was settled (no thoughts, no date of today) aside, nothing differs from the tokenizer as it was published."""
    chat, rng = chats[name], random.Random(2)
    settled = {"enable_thinking": False, "date_string": "26 Jul 2024"}
    for _ in range(30):
        system, pairs = conversation(rng)
        asked = messages(system, pairs[:1])[:-1]
        theirs = chat.published.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, **settled)
        ours = chat.theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)
        assert ours["input_ids"] == theirs["input_ids"]


@pytest.mark.parametrize("name", CHATS)
def test_what_is_learnt_is_what_a_model_writes_after_the_prompt(name: str, chats: dict[str, Chat]) -> None:
    """By construction: the prompt, rendered with the turns before it, ends where the learnt run begins."""
    chat, rng = chats[name], random.Random(3)
    for _ in range(1000 // len(CHATS)):
        system, pairs = conversation(rng)
        if name == "mistral 0.3":
            system = ""  # which moves to the last question
        sample = encoded(chat.ours, system, pairs)
        runs = learnt(sample)
        assert len(runs) == len(pairs)
        for number, (run, (_, answer)) in enumerate(zip(runs, pairs, strict=True)):
            history = messages(system, pairs[: number + 1])[:-1]
            prompt = chat.theirs.apply_chat_template(history, add_generation_prompt=True, return_dict=True)["input_ids"]
            assert sample.tokens[: len(prompt) + len(run)].tolist() == [*prompt, *run]
            assert run[-1] == chat.ours.eos
            assert same_text(chat.ours.decode(run), answer)


def test_masks_are_transformers_assistant_masks(chats: dict[str, Chat]) -> None:
    chat, rng = chats["marked"], random.Random(4)
    for _ in range(300):
        system, pairs = conversation(rng)
        sample = encoded(chat.ours, system, pairs)
        found = chat.published.apply_chat_template(
            messages(system, pairs), return_dict=True, return_assistant_tokens_mask=True
        )
        expected = [
            token if mask else IGNORED_LABEL
            for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True)
        ]
        assert sample.labels.tolist() == [*expected[1:], IGNORED_LABEL]


@pytest.mark.parametrize("name", CHATS)
def test_ids_that_are_no_text_say_nothing(name: str, chats: dict[str, Chat]) -> None:
    """Such as of rows that a model has beyond its tokenizer's vocabulary."""
    ours = chats[name].ours
    ids = ours.encode("a red circle")
    assert ours.decode([*ids, *range(ours.vocabulary, ours.vocabulary + 300), ours.eos]) == "a red circle"


@pytest.mark.parametrize("name", CHATS)
def test_texts_never_become_control_tokens(name: str, chats: dict[str, Chat]) -> None:
    chat, rng = chats[name], random.Random(5)
    for _ in range(50):
        system, pairs = conversation(rng, WORDS + SPELLED)
        sample = encoded(chat.ours, system, pairs)
        harmless = encoded(chat.ours, system and "a", [("a", "a")] * len(pairs))
        control = chat.ours.control_ids
        assert [token for token in sample.tokens.tolist() if token in control] == [
            token for token in harmless.tokens.tolist() if token in control
        ]
        for run, (_, answer) in zip(learnt(sample), pairs, strict=True):
            assert same_text(chat.ours.decode(run), answer)


@pytest.mark.parametrize("name", CHATS)
def test_pictures_stand_where_the_template_puts_them(name: str, chats: dict[str, Chat]) -> None:
    chat = chats[name]
    one = [("<image>\nWhat is it?", "red"), ("Sure?", "yes")]
    several = [("Is <image> as red as\n<image>?", "yes"), ("And <image>", "no")]
    for pairs, count in ((one, 1), ([("What is it? <image>", "red"), ("Sure?", "yes")], 1), (several, 3)):
        sample = encode_conversation(
            llava("Be brief.", pairs), [PICTURE] * count, tokenizer=chat.ours, settings=IMAGE, prompt_format="instruct"
        )
        content: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
        for number, (human, answer) in enumerate(pairs):
            texts = human.split("<image>")
            parts: list[dict[str, Any]] = [{"type": "text", "text": texts[0].strip()}] if texts[0].strip() else []
            for after in texts[1:]:
                parts.append({"type": "image"})
                parts += [{"type": "text", "text": after.strip()}] if after.strip() else []
            if count == 1 and number == 0:  # LLaVA's way
                parts = [{"type": "image"}, {"type": "text", "text": human.replace("<image>", "").strip()}]
            asked: Any = parts if any(part["type"] == "image" for part in parts) else human
            content += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        rendered = chat.theirs.apply_chat_template(content, tokenize=False)
        expanded = rendered.replace(chat.ours.image_name, chat.ours.image_name * IMAGE.tokens)
        assert sample.tokens.tolist() == chat.theirs(expanded, add_special_tokens=False)["input_ids"]
        assert sample.tokens.tolist().count(chat.ours.image) == count * IMAGE.tokens
        assert sample.pixels.shape[0] == count
        prompt = encode_prompt(
            pairs[0][0],
            [PICTURE] * pairs[0][0].count("<image>"),
            tokenizer=chat.ours,
            settings=IMAGE,
            prompt_format="instruct",
        )
        assert prompt.tokens.tolist().count(chat.ours.image) == pairs[0][0].count("<image>") * IMAGE.tokens


@pytest.mark.parametrize("name", CHATS)
def test_servers_can_tell_that_a_template_takes_pictures(name: str, chats: dict[str, Chat]) -> None:
    """vLLM looks for a loop over a message's content; without one it would write "<image>" into the text instead."""
    template = re.sub(r"{%-? (end)?generation -?%}", "", chats[name].theirs.chat_template)
    tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    loops = list(tree.find_all(nodes.For))
    messages = {
        loop.target.name for loop in loops if isinstance(loop.iter, nodes.Name) and loop.iter.name == "messages"
    }
    read = {(name, key) for loop in loops for name, key in [_looked_up(loop.iter)]}
    assert read & {(name, "content") for name in messages}


def _looked_up(node: nodes.Node) -> tuple[str, str]:
    """Return the names of `name['key']` or `name.key`."""
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return node.node.name, node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and isinstance(node.arg, nodes.Const):
        return node.node.name, node.arg.value
    return "", ""


def test_which_templates_are_replaced(chats: dict[str, Chat]) -> None:
    made = {name: chat.made for name, chat in chats.items()}
    found = {name: (one.template, one.image_name, one.added_image) for name, one in made.items()}
    assert found == {
        "qwen 2.5": ("own", "<|image_pad|>", False),
        "qwen 3": ("qwen3", "<|image_pad|>", False),
        "llama 3.1": ("own", "<|reserved_special_token_100|>", False),
        "llama 3.2": ("own", "<|reserved_special_token_100|>", False),
        "llama 2": ("own", "<image>", True),
        "mistral 0.3": ("mistral", "[IMG]", False),
        "marked": ("own", "<|image_pad|>", False),
        "seeing": ("own", "<|image_pad|>", False),
    }
