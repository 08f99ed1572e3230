"""Answers that are hard to read: read as the benchmarks' own programs read them, and as a person does where none has a program.

What the programs read was recorded by tests/benchmarks/official_scorers.py, which runs their code.
"""

import json
from typing import Any

import pytest

from components.tasks.kinds.letters import RULES
from components.tasks.kinds.short_answer import FORMULA
from components.tasks.kinds.yes_no import Mme, YesNo
from components.tasks.loading import load_task
from components.tasks.registry import find_kind
from components.tasks.sample import HeldOutSample
from tests.benchmarks.official_scorers import OPEN_KINDS, RECORDED
from tests.support.adversarial_answers import LETTERS, OPEN, QUESTION_OPTIONS, YES_NO, Marked

OFFICIAL: dict[str, list[Any]] = json.loads(RECORDED.read_text())


def test_there_are_three_hundred_of_them_and_the_hard_sorts_are_there() -> None:
    texts = [text for text, *_ in (*LETTERS, *YES_NO)] + [one.text for one in OPEN]
    assert len(texts) >= 300
    assert {"", " "} <= set(texts)
    assert max(map(len, texts)) >= 10_000
    assert any(not text.isascii() for text in texts)
    assert {one.kind for one in OPEN} == set(OPEN_KINDS)


@pytest.mark.parametrize(("text", "options", "letter"), LETTERS, ids=[text[:20] for text, *_ in LETTERS])
def test_the_plain_rule_reads_what_a_person_reads(text: str, options: str, letter: str | None) -> None:
    assert RULES["plain"].read(text, QUESTION_OPTIONS[options]) == letter


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"plain"}))
def test_every_other_rule_reads_what_its_program_reads(rule: str) -> None:
    clean = load_task("multiple_choice").clean
    for (text, options, _), official in zip(LETTERS, OFFICIAL[rule], strict=True):
        own = RULES[rule].read(clean(text), QUESTION_OPTIONS[options])
        # Where MMMU's program guesses, more is read: "B)", a letter on a line of its own.
        assert own == official or (rule == "mmmu" and official is None), text[:50]


def test_what_mmmu_would_guess_and_is_read_is_what_a_person_reads() -> None:
    read = [
        (text, RULES["mmmu"].read(text.strip(), QUESTION_OPTIONS[options]), letter)
        for (text, options, letter), official in zip(LETTERS, OFFICIAL["mmmu"], strict=True)
        if official is None
    ]
    wrong = {text[:20] for text, own, letter in read if own is not None and own != letter}
    assert wrong == {"A\nB", "A\nB\nC\nD"}  # several letters: the last counts, as elsewhere in MMMU's rules


@pytest.mark.parametrize(("task", "kind"), [("pope", YesNo()), ("mme", Mme())])
def test_yes_and_no_are_read_as_their_programs_read_them(task: str, kind: YesNo) -> None:
    sample = HeldOutSample("1", "", references=("yes",), category="count")
    for (text, _), official in zip(YES_NO, OFFICIAL[task], strict=True):
        own = kind.parse(load_task(task), sample, load_task(task).clean(text), 0).value
        if not text.strip():
            assert own == ""  # POPE's program reads yes in an empty answer
        elif task == "mme" and text.lower() in ("y", "n"):
            assert own == ""  # lmms-eval reads these, MME's own program does not
        else:
            assert own == official.replace("other", ""), text[:50]


@pytest.mark.parametrize("task", ["pope", "mme"])
def test_how_often_these_rules_read_what_a_person_does_not(task: str) -> None:
    """Not a fault of ours: the published figures have it, too. It is said in docs/benchmarks.md."""
    wrong = [
        text for (text, person), official in zip(YES_NO, OFFICIAL[task], strict=True) if official.replace("other", "") != (person or "")
    ]  # fmt: skip
    assert len(wrong) == {"pope": 34, "mme": 27}[task]


@pytest.mark.parametrize("one", OPEN, ids=[f"{one.kind}-{one.text[:20]}" for one in OPEN])
def test_open_answers_get_the_mark_of_their_rules(one: Marked) -> None:
    task = load_task(OPEN_KINDS[one.kind])
    kind = find_kind(task.kind)
    sample = HeldOutSample("1", "", references=one.accepted, category=FORMULA if one.kind == "formula" else "")
    mark = kind.mark(sample, kind.parse(task, sample, task.clean(one.text), 0))  # type: ignore[attr-defined]
    assert mark == pytest.approx(one.mark)
    official = OFFICIAL["open"][OPEN.index(one)]
    if one.text.strip():
        assert mark == pytest.approx(official)
    else:
        assert mark == 0  # an empty answer matches nothing, whatever the program says


@pytest.mark.parametrize("name", ["scienceqa", "ai2d", "seedbench", "mmbench", "mmmu_pro"])
def test_what_can_not_be_read_is_counted_and_no_gift(name: str) -> None:
    task = load_task(name)
    kind = find_kind(task.kind)
    sample = HeldOutSample("1", "", options=QUESTION_OPTIONS["captions"], answer="B")
    reading = kind.parse(task, sample, "I don't know", 0)  # type: ignore[attr-defined]
    assert not reading.readable
    assert (reading.value == "") is (name != "mmmu_pro")  # MMMU-Pro guesses, as its program does
