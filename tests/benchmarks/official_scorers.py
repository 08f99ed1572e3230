"""Compare the scorers with the programs that published figures come from, on random answers and on the adversarial ones.

    python -m tests.benchmarks.official_scorers --count 10000 \
        --llava PATH --lmms-eval PATH --vlmevalkit PATH --vqa PATH --mmmu PATH --gqa PATH [--record]

Each PATH is a clone of the repository of that name (LLaVA, lmms-eval, VLMEvalKit, VQA, MMMU; for GQA howard-hou/LLaVA, which
has its authors' eval.py as eval/eval_gqa.py), whose HEAD is taken: what the table in docs/benchmarks.md says was found with the
commits that it names. Their code runs as it is, but for names that the parts taken here don't need. `--record` writes what they
read in the adversarial answers to tests/support/recorded/official_readings.json, which the tests compare with.
"""

import argparse
import json
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.metrics.partly_right import ANLS
from components.metrics.right_or_wrong import RELAXED_ACCURACY
from components.tasks.kinds.letters import RULES
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.realworldqa import RealWorldQa
from components.tasks.kinds.short_answer import FORMULA
from components.tasks.kinds.vqa_answers import normalise_textvqa
from components.tasks.kinds.yes_no import Mme, YesNo
from components.tasks.loading import load_task
from components.tasks.sample import HeldOutSample
from tests.support.adversarial_answers import QUESTION_OPTIONS
from tests.support.official_programs import Official
from tests.support.random_answers import OPTIONS, random_answer

RECORDED = Path(__file__).parents[1] / "support" / "recorded" / "official_readings.json"

Asked = tuple[str, Sequence[str]]
"""An answer and the options of its question."""

OPEN_KINDS = {
    "exact_match": "gqa",
    "relaxed_match": "chartqa",
    "similar_text": "docvqa",
    "contained_text": "ocrbench",
    "formula": "ocrbench",
    "textvqa": "textvqa",
    "vqa": "vqav2",
    "mmmu": "mmmu",
}
"""Kind of an open answer in the adversarial ones to the task that has its rules."""


def own_mark(kind: str, text: str, accepted: Sequence[str]) -> float:
    """Return the mark of an open answer as an evaluation gives it."""
    from components.tasks.registry import find_kind

    task = load_task(OPEN_KINDS[kind])
    sample = HeldOutSample("1", "", references=tuple(accepted), category=FORMULA if kind == "formula" else "")
    scorer = find_kind(task.kind)
    return scorer.mark(sample, scorer.parse(task, sample, task.clean(text), 0))  # type: ignore[attr-defined]


def official_mark(official: Official, kind: str, text: str, accepted: Sequence[str]) -> float:
    """Return the mark that the benchmark's program gives to an answer as it is handed to it."""
    text = load_task(OPEN_KINDS[kind]).clean(text)
    marks: dict[str, Callable[[], float]] = {
        "exact_match": lambda: max(official.gqa([text] * len(accepted), accepted)),
        "relaxed_match": lambda: official.relaxed(text, accepted[0]),
        "similar_text": lambda: official.anls(text, accepted),
        "contained_text": lambda: official.ocrbench(text, accepted, "Doc-oriented VQA"),
        "formula": lambda: official.ocrbench(text, accepted, FORMULA),
        "textvqa": lambda: official.textvqa(text, accepted),
        "vqa": lambda: official.vqa(text, accepted),
        "mmmu": lambda: official.mmmu_open(text, accepted),
    }
    return marks[kind]()


def compare(
    name: str, pairs: Sequence[tuple[Any, Any, Any]], known: Callable[[Any, Any], bool] = lambda given, theirs: False
) -> None:
    """Print how many of (input, official, own) differ, how many of these are no known departure, and the first of these."""
    differ = [
        pair
        for pair in pairs
        if pair[1] != pair[2] and not (isinstance(pair[1], float) and abs(pair[1] - pair[2]) < 1e-6)
    ]
    wrong = [pair for pair in differ if not known(pair[0], pair[1])]
    print(
        f"{name:24} {len(pairs):7} inputs, {len(differ):5} differ, {len(wrong):3} of them in no known way", flush=True
    )
    for given, theirs, ours in wrong[:5]:
        print(f"    {str(given)[:150]!r}: official {theirs!r}, own {ours!r}")


def compare_random(official: Official, count: int) -> None:
    """Compare on random answers."""
    generator = random.Random(0)
    asked = [
        (random_answer(generator, options), options) for options in (generator.choice(OPTIONS) for _ in range(count))
    ]
    asked = [(text.strip(), options) for text, options in asked]
    for rule in ("mmmu", "mmmu_pro", "mmbench", "ai2d", "lone"):
        pairs = [
            (pair, official.letter(rule, *pair), RULES[rule].read(*pair)) for pair in asked
        ]  # MMMU's program guesses where it reads nothing
        compare(rule, pairs, lambda _, theirs, rule=rule: rule == "mmmu" and theirs is None)
    fewer = [(text, options[:5]) for text, options in asked]
    read = official.scienceqa(*zip(*fewer, strict=True))
    compare(
        "scienceqa", [(pair, theirs, RULES["scienceqa"].read(*pair)) for pair, theirs in zip(fewer, read, strict=True)]
    )
    texts = [text for text, _ in asked]
    sample, task = HeldOutSample("1", "", references=("yes",)), load_task("pope")
    compare(
        "pope",
        [(text, official.pope(text), YesNo().parse(task, sample, text, 0).value) for text in texts[: count // 2]],
        lambda text, _: not text,
    )
    compare(
        "mme",
        [(text, official.mme(text).replace("other", ""), Mme().parse(task, sample, text, 0).value) for text in texts],
        _lmms_eval_reads_more,
    )
    references = [random_answer(generator).strip()[:200] or "x" for _ in range(count)]
    for row in range(0, count, 2):  # half of them are near the truth
        references[row] = texts[row][:200] or "x"
    compare(
        "relaxed_accuracy",
        [
            ((text, truth), official.relaxed(text, truth.strip()), RELAXED_ACCURACY.per_sample(text, truth)[0])
            for text, truth in zip(texts, references, strict=True)
        ],
    )
    accepted = [(one, other) for one, other in zip(references, references[7:] + references[:7], strict=True)]
    compare(
        "anls",
        [
            ((text, given), official.anls(text, given), ANLS.per_sample(text, given)[0])
            for text, given in zip(texts, accepted, strict=True)
            if len(text) < 500
        ],
    )
    several = [tuple(generator.choice((one, other, one.lower(), "yes")) for _ in range(10)) for one, other in accepted]
    alike = [(given[0],) * 10 if row % 3 == 0 else given for row, given in enumerate(several)]
    for kind in ("vqa", "textvqa", "contained_text", "formula", "mmmu"):
        many = alike[: count // 4] if kind in ("contained_text", "formula") else alike
        pairs = [(text, given) for text, given in zip(texts, many, strict=False)]
        compare(
            kind,
            [(pair, official_mark(official, kind, *pair), own_mark(kind, *pair)) for pair in pairs],
            lambda pair, _: not pair[0],
        )
    compare("textvqa's processor", [(text, official.processor(text), normalise_textvqa(text)) for text in texts])
    compare("mme's total", [_mme_totals(official, generator) for _ in range(count // 100)])
    short = [(text, given[0]) for text, given in zip(texts, accepted, strict=True)]
    marks = official.gqa(*zip(*[(text, truth.lower()) for text, truth in short], strict=True))
    compare(
        "gqa",
        [
            ((text, truth), theirs, own_mark("exact_match", text, [truth.lower()]))
            for (text, truth), theirs in zip(short, marks, strict=True)
        ],
        lambda pair, _: not pair[0],
    )
    compare_seedbench(official, asked)
    compare_realworldqa(official, asked, short)
    compare("mmbench, circular", [_circular(official, generator) for _ in range(count // 4)])


def compare_seedbench(official: Official, asked: Sequence[Asked]) -> None:
    """Compare marks of SEED-Bench: four options, and answers of all kinds."""
    task, kind, generator = load_task("seedbench"), MultipleChoice(), random.Random(1)
    pairs = [(task.clean(text), generator.choice("ABCD")) for text, _ in asked]
    samples = [HeldOutSample("1", "", options=("1", "2", "3", "4"), answer=truth) for _, truth in pairs]
    own = [
        kind.mark(sample, kind.parse(task, sample, text, 0)) for sample, (text, _) in zip(samples, pairs, strict=True)
    ]
    marks = official.seedbench(*zip(*pairs, strict=True))
    compare("seedbench", list(zip(pairs, marks, own, strict=True)))


def compare_realworldqa(official: Official, asked: Sequence[Asked], short: Sequence[tuple[str, str]]) -> None:
    """Compare marks of RealWorldQA: letters are read by another rule than lmms-eval's; open answers by the same."""
    task, kind, generator = load_task("realworldqa"), RealWorldQa(), random.Random(1)
    closed = []
    for text, options in asked:
        sample = HeldOutSample("1", "", options=tuple(options[:4]), answer=generator.choice("ABCD"[: len(options)]))
        own = kind.mark(sample, kind.parse(task, sample, text, 0))
        closed.append(((text, sample.options), official.realworldqa(text, sample.answer), own))
    compare("realworldqa, letters", closed, lambda *_: True)
    plain = [(text, truth.strip()) for text, truth in short]
    opened = []
    for text, truth in plain:
        sample = HeldOutSample("1", "", references=(truth,))
        own = kind.mark(sample, kind.parse(task, sample, text, 0))
        opened.append(((text, truth), official.realworldqa(text, truth), own))
    compare("realworldqa, open", opened, lambda pair, _: pair[1].endswith(".") or pair[1].upper() in "ABCD")


def _lmms_eval_reads_more(text: str, _: Any) -> bool:
    """Tell whether an answer is one that lmms-eval, but not MME's own program, reads: a single letter, full stops."""
    return text.lower().replace(".", "").strip() in ("y", "n") or "." in text[:6]


def _mme_totals(official: Official, generator: random.Random) -> tuple[Any, float, float]:
    from components.metrics.mme import MME_TOTAL, PART_OF
    from components.metrics.statistic import Statistic

    samples = [
        HeldOutSample(f"{subtask}{row}{side}", f"{subtask}{row}", references=("yes",), category=subtask)
        for subtask in PART_OF
        for row in range(generator.randrange(1, 5))
        for side in range(2)
    ]
    marks = [float(generator.random() < 0.7) for _ in samples]
    rows = Mme().rows(MME_TOTAL, samples, [], marks)
    own = 100 * Statistic.of(MME_TOTAL, rows, [sample.image for sample in samples]).value()
    theirs = official.mme_total(
        [(sample.category, sample.image, mark) for sample, mark in zip(samples, marks, strict=True)]
    )
    return len(samples), round(theirs, 6), round(own, 6)


def _circular(official: Official, generator: random.Random) -> tuple[Any, float, float]:
    options = generator.choice([options for options in OPTIONS if len(options) <= 4])
    turns = [(*options[turn:], *options[:turn]) for turn in range(len(options))]
    answers = ["ABCD"[choices.index(options[0])] for choices in turns]
    texts = [answer if generator.random() < 0.8 else random_answer(generator, options).strip() for answer in answers]
    own = all(RULES["mmbench"].read(*pair) == answer for *pair, answer in zip(texts, turns, answers, strict=True))
    return (texts, turns), official.circular(texts, turns, answers), float(own)


def adversarial(official: Official) -> dict[str, list[Any]]:
    """Return what the programs read in the adversarial answers: rule to readings, in their order."""
    from tests.support.adversarial_answers import LETTERS, OPEN, YES_NO

    task, asked = (
        load_task("multiple_choice"),
        [(task_clean(text), QUESTION_OPTIONS[name]) for text, name, _ in LETTERS],
    )
    assert task.postprocess == ("strip",)
    found: dict[str, list[Any]] = {
        rule: [official.letter(rule, text, options) for text, options in asked]
        for rule in ("mmmu", "mmmu_pro", "mmbench", "ai2d", "lone")
    }
    found["scienceqa"] = official.scienceqa(*zip(*asked, strict=True))
    found["pope"] = [official.pope(text.strip()) for text, _ in YES_NO]
    found["mme"] = [official.mme(text.strip()) for text, _ in YES_NO]
    found["open"] = [official_mark(official, one.kind, one.text, one.accepted) for one in OPEN]
    return found


def task_clean(text: str) -> str:
    """Return an answer as the tasks with options hand it to their rules."""
    return load_task("multiple_choice").clean(text)


def main() -> None:
    """Compare, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("llava", "lmms-eval", "vlmevalkit", "vqa", "mmmu", "gqa"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--record", action="store_true")
    options = vars(parser.parse_args())
    count, record = options.pop("count"), options.pop("record")
    official = Official(options)
    commits = {
        name: subprocess.run(
            ["git", "-C", str(path), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name, path in options.items()
    }
    if record:
        RECORDED.write_text(
            json.dumps({"commits": commits, **adversarial(official)}, ensure_ascii=False, indent=1) + "\n"
        )
    compare_random(official, count)


if __name__ == "__main__":
    main()
