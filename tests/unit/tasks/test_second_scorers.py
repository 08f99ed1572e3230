"""Every rule by which answers are read and marked, against a second implementation on random answers."""

import random
import re

import pytest

from components.metrics.right_or_wrong import RELAXED_ACCURACY
from components.tasks.kinds.contractions import CONTRACTIONS
from components.tasks.kinds.letters import RULES
from components.tasks.kinds.short_answer import FORMULA, ContainedText, ExactMatch
from components.tasks.kinds.vqa import TextVqa, Vqa
from components.tasks.kinds.vqa_answers import normalise_textvqa, normalise_vqa
from components.tasks.kinds.yes_no import Mme, YesNo
from components.tasks.loading import load_task
from components.tasks.sample import HeldOutSample
from tests.support import second_scorers
from tests.support.random_answers import OPTIONS, random_answer

COUNT = 1000


def answers(seed: int, count: int = COUNT) -> list[str]:
    generator = random.Random(seed)
    return [random_answer(generator, generator.choice(OPTIONS)).strip() for _ in range(count)]


@pytest.mark.parametrize("rule", ["mmmu", "mmmu_pro", "scienceqa", "ai2d", "mmbench"])
def test_letters(rule: str) -> None:
    generator, second = random.Random(1), getattr(second_scorers, rule)
    read = 0
    for _ in range(COUNT):
        options = generator.choice(OPTIONS)[:5] if rule == "scienceqa" else generator.choice(OPTIONS)
        text = random_answer(generator, options).strip()
        own, other = RULES[rule].read(text, options), second(text, options)
        assert own == other or (rule == "mmmu" and other is None), text
        read += own is not None
    assert read > COUNT / 20


def test_a_lone_letter() -> None:
    for text in (*answers(2, 300), *"ABCDE"):
        assert (RULES["lone"].read(text, OPTIONS[0]) == text) == (re.fullmatch("[ABCD]", text) is not None)


def test_yes_and_no() -> None:
    pope, mme = load_task("pope"), load_task("mme")
    sample = HeldOutSample("1", "", references=("yes",), category="count")
    for text in answers(3):
        assert YesNo().parse(pope, sample, text, 0).value == second_scorers.pope(text), text
        assert Mme().parse(mme, sample, text, 0).value == second_scorers.mme(text), text


def test_normalisation() -> None:
    for text in answers(4):
        assert normalise_vqa(text) == second_scorers.vqa_words(text, CONTRACTIONS), text
        assert normalise_textvqa(text) == second_scorers.textvqa_words(text, CONTRACTIONS), text


def test_soft_accuracy_of_vqav2_and_textvqa() -> None:
    generator, task = random.Random(5), load_task("vqav2")
    texts = answers(5)
    right = 0
    for row, text in enumerate(texts):
        near = [text.upper(), text, f"the {text}", generator.choice(texts), "yes"]
        given = (generator.choice(near),) * 10 if row % 3 == 0 else tuple(generator.choice(near) for _ in range(10))
        sample = HeldOutSample("1", "", references=given)
        own = Vqa().mark(sample, Vqa().parse(task, sample, text, 0))
        assert own == pytest.approx(float(second_scorers.vqa(text, given, CONTRACTIONS))), (text, given)
        said = second_scorers.textvqa_words(text, CONTRACTIONS)
        matches = [bool(text) and second_scorers.textvqa_words(one, CONTRACTIONS) == said for one in given]
        own = TextVqa().mark(sample, TextVqa().parse(task, sample, text, 0))
        assert own == pytest.approx(float(second_scorers.soft(matches))), (text, given)
        right += own > 0
    assert right > COUNT / 4


def test_relaxed_numbers() -> None:
    generator = random.Random(6)
    right = 0
    for _ in range(COUNT):
        truth = generator.choice(["10", "0.5", "-3", "40%", "0", "100", ".25", "yes", "7."])
        if generator.random() < 0.7 and re.fullmatch(r"-?\d*\.?\d*%?", truth):
            off = generator.choice([0, 0.01, 0.049, 0.051, 0.2, -0.03, -0.06, 1])
            said = f"{float(truth.rstrip('%')) * (1 + off):.6f}" + "%" * truth.endswith("%")
        else:
            said = generator.choice(["yes", "Yes", "10", "1,000", "ten", "10%", "0.4", " 10", ""])
        own = bool(RELAXED_ACCURACY.per_sample(said, truth)[0])
        assert own == second_scorers.relaxed(said, truth), (said, truth)
        right += own
    assert COUNT / 10 < right < COUNT


def test_contained_and_exact_texts() -> None:
    generator = random.Random(7)
    task = load_task("ocrbench")
    for text in answers(7):
        words = text.split() or ["x"]
        truth = generator.choice([generator.choice(words), text.upper() or "x", "yes", " ".join(words[:2])])
        plain = HeldOutSample("1", "", references=(truth,), category="Doc-oriented VQA")
        formula = HeldOutSample("1", "", references=(truth,), category=FORMULA)
        kind = ContainedText()
        said = re.sub(r"\n", " ", text.lower().strip())
        assert kind.mark(plain, kind.parse(task, plain, text, 0)) == (
            re.search(re.escape(re.sub(r"\n", " ", truth.lower().strip())), said) is not None if text else 0
        )
        bare = re.sub(r"[\n ]", "", text.strip())
        assert kind.mark(formula, kind.parse(task, formula, text, 0)) == (
            re.sub(r"[\n ]", "", truth) in bare if text else 0
        )
        exact = ExactMatch()
        wanted = re.sub(r"\.+$", "", text).lower()
        gold = HeldOutSample("1", "", references=(truth.lower(),))
        assert exact.mark(gold, exact.parse(load_task("gqa"), gold, text, 0)) == (
            wanted != "" and wanted == truth.lower()
        )
