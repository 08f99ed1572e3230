"""A task of one's own needs nothing else: a YAML file, or a YAML file and an installed package with a kind."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.context import RunContext
from components.errors import ConfigurationError, InputError
from components.evaluate.config import EvaluateConfig
from components.evaluate.paired import paired_tests
from components.evaluate.sample_scores import read_sample_scores
from components.evaluate.samples import read_samples
from components.evaluate.scores import Scores, read_scores
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.metrics.intervals import wilson_interval
from components.metrics.metric import Metric, Row
from components.metrics.registry import ENTRY_POINTS as METRIC_ENTRY_POINTS
from components.metrics.registry import find_metric
from components.metrics.right_or_wrong import ACCURACY
from components.metrics.yes_no import F1, YES_RATIO
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions
from components.tasks.loading import BENCHMARKS_FOLDER, load_samples, load_task, task_identity
from components.tasks.registry import ENTRY_POINTS, OWN_KINDS, find_kind
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from pipelines.preset_files import load_preset
from tests.support.evaluation_world import predictions, raw_dataset, stub_model

COUNT = 12


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path / "workspace", git_commit="abc")


def questions(raw: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (raw / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def scene(image: str) -> list[str]:
    """Size, colour and shape that a picture of the test's dataset shows."""
    return Path(image).stem.split("-")[1:]


def evaluated(context: RunContext, task: str, raw: Path, answer: Any) -> tuple[Scores, Path]:
    model = stub_model(context)
    folders = predictions(context, GenerateConfig(task=task, partitions=2), model, raw, answer)
    folder = run_evaluate(context, EvaluateConfig(task=task, samples=4), folders, model, raw).folder
    return read_scores(folder), folder


COLOUR_TASK = """
name: colours
title: Name the colour
version: 3
kind: vqa
dataset: colours.jsonl
prompt: {format: instruct, template: "{question} One word."}
max_new_tokens: 4
postprocess: [strip, first_line]
metrics: [vqa_accuracy]
headline: vqa_accuracy
"""


def test_a_task_by_a_yaml_file_alone(context: RunContext, tmp_path: Path) -> None:
    raw = raw_dataset(context, COUNT)
    images = [sample.image for sample in load_samples(raw, load_task("captioning"))]
    rows = [
        {
            "id": f"c{row}",
            "image": image,
            "question": "Which colour?",
            "answers": [scene(image)[1]] * 10,
            "category": "x",
        }
        for row, image in enumerate(images)
    ]
    raw = raw_dataset(context, COUNT, more={"colours.jsonl": rows})
    path = tmp_path / "colours.yaml"
    path.write_text(COLOUR_TASK)
    evaluations = {"colours": {"model": "sft", "generate": {"task": str(path)}, "evaluate": {}}}
    assert load_preset("laptop", [f"evaluations={json.dumps(evaluations)}"]).evaluations["colours"]

    def answer(sample: HeldOutSample, picture: str) -> str:
        return f"{scene(picture)[1].upper()}." if picture else "red"

    scores, folder = evaluated(context, str(path), raw, answer)
    assert (scores.task, scores.prompt_version, scores.n_scored) == ("colours", "colours 3", COUNT)
    assert scores.metrics["vqa_accuracy"].value == 100
    assert set(scores.controls) == {"blank", "shuffled", "constant"}
    assert scores.controls["constant"]["vqa_accuracy"].value >= scores.controls["blank"]["vqa_accuracy"].value
    assert scores.label("vqa_accuracy") == "VQA accuracy"
    page = (folder / "evaluation.html").read_text()
    assert "Name the colour" in page
    assert "Which colour?" in page
    assert read_samples(folder).samples[0].answers["none"].score == 100


LENGTH_KIND = '''
"""A kind of its own: an answer must have as many words as the question asks for."""

from components.metrics.metric import Metric
from components.tasks.kinds.questions import Constant, QuestionKind, Reading, read_questions


LENGTH = Metric(
    name="length", label="Right length", per_sample=lambda right: (float(right), 1.0), unit="per cent right", form="share"
)


class Length(QuestionKind):
    metrics = ("length",)
    noun = "orders"

    def check(self, task):
        if task.prompt.open_template:
            raise ValueError("prompt.open_template: lengths are asked in one way")

    def load(self, path):
        return read_questions(path, "an order")

    def ask(self, task, sample):
        return task.prompt.template.format(words=sample.answer or sample.references[0])

    def parse(self, task, sample, text, seed):
        return Reading(str(len(text.split())), readable=bool(text))

    def mark(self, sample, reading):
        return float(reading.value == sample.references[0])

    def constant(self, samples):
        return Constant("word", Reading("1"))


class NoKind:
    pass
'''

LENGTH_TASK = """
name: lengths
version: 1
kind: length
dataset: lengths.jsonl
prompt: {format: instruct, template: "Say {words} words."}
max_new_tokens: 9
metrics: [length]
headline: length
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages with one that brings kinds."""
    folder = tmp_path / "site-packages"
    (folder / "lengths-1.2.dist-info").mkdir(parents=True)
    (folder / "vlm_lengths.py").write_text(LENGTH_KIND)
    (folder / "lengths-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.2\n")
    (folder / "lengths-1.2.dist-info" / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nlength = vlm_lengths:Length\nother = vlm_lengths:NoKind\nlost = vlm_nowhere:Kind\n"
        f"[{METRIC_ENTRY_POINTS}]\nlength = vlm_lengths:LENGTH\nwidth = vlm_lengths:LENGTH\nlost = vlm_nowhere:LOST\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("vlm_lengths", None)


@pytest.mark.usefixtures("installed")
def test_a_kind_of_an_installed_package(context: RunContext, tmp_path: Path) -> None:
    raw = raw_dataset(context, COUNT)
    images = [sample.image for sample in load_samples(raw, load_task("captioning"))]
    rows = [
        {"id": f"l{row}", "image": image, "question": "", "answers": [str(row % 3)]} for row, image in enumerate(images)
    ]
    raw = raw_dataset(context, COUNT, more={"lengths.jsonl": rows})
    path = tmp_path / "lengths.yaml"
    path.write_text(LENGTH_TASK)
    assert load_samples(raw, load_task(str(path)))[2].prompt == "Say 2 words."
    scores, _ = evaluated(
        context, str(path), raw, lambda sample, picture: "word " * int(sample.references[0]) if picture else ""
    )
    assert scores.metrics["length"].value == 100
    assert scores.controls["constant"]["length"].value == pytest.approx(100 / 3, abs=0.01)
    assert scores.unparsed["blank"] == COUNT
    assert "Right length 100.0" in scores.meaning
    assert "held-out orders" in scores.meaning
    path.write_text(LENGTH_TASK.replace("Say {words} words.", 'x", open_template: "y'))
    with pytest.raises(ConfigurationError, match="lengths are asked in one way"):
        load_task(str(path))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (
            "os:system",
            "there is no kind 'os:system'; known are captioning, multiple_choice, mmmu, mmmu_pro, vqa, textvqa, yes_no, mme, exact_match, "
            "relaxed_match, similar_text, contained_text, realworldqa, length, lost, other",
        ),
        ("vlm_lengths:Length", "there is no kind"),
        ("other", "no subclass of components.tasks.kind.Kind"),
        ("lost", "can't be loaded from vlm_nowhere:Kind"),
    ],
)
def test_a_task_file_runs_no_code_but_kinds_of_installed_packages(tmp_path: Path, kind: str, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LENGTH_TASK.replace("kind: length", f"kind: {kind!r}"))
    with pytest.raises(ConfigurationError) as caught:
        load_task(str(path))
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("metric", "complaint"),
    [
        ("charm", "there is no metric 'charm'; known are cider, .*, length, lost, width"),
        ("width", "brings as the metric 'width' is no Metric of that name"),
        ("lost", "the metric 'lost' can't be loaded from vlm_nowhere:LOST"),
    ],
)
def test_a_metric_that_is_none_is_explained(metric: str, complaint: str) -> None:
    assert find_metric("length").label == "Right length"
    with pytest.raises(ValueError, match=complaint):
        find_metric(metric)


def test_the_version_of_a_kind_is_part_of_a_tasks_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("mmmu")
    before = task_identity(task)
    monkeypatch.setattr(type(find_kind(task.kind)), "version", 99)
    assert task_identity(task) != before


@pytest.mark.parametrize(
    ("task", "change", "complaint"),
    [
        ("mmmu", {"open_template": "{question} {options}"}, "prompt.open_template: must use {question}"),
        ("mmmu", {"answer": "text"}, "answered with the letter"),
        ("vqav2", {"template": "What?"}, "prompt.template: must use {question}"),
        ("vqav2", {"format": "plain", "template": ""}, "can ask nothing"),
        ("captioning", {"template": "Describe it."}, "can ask nothing"),
    ],
)
def test_prompts_that_do_not_fit_their_kind_are_explained(
    tmp_path: Path, task: str, change: dict[str, str], complaint: str
) -> None:
    content = yaml.safe_load((BENCHMARKS_FOLDER / f"{task}.yaml").read_text())
    content["prompt"] |= change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError) as caught:
        load_task(str(tmp_path / "mine.yaml"))
    assert complaint in str(caught.value)


class YesNo(QuestionKind):
    """Is it there? Two questions about each picture; what counts beside accuracy is the yes."""

    metrics = ("accuracy", "group_accuracy", "f1", "precision", "yes_ratio")

    def check(self, task: Task) -> None:
        pass

    def load(self, path: Path) -> list[HeldOutSample]:
        return read_questions(path, "a question")

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        return sample.question

    def parse(self, task: Task, sample: HeldOutSample, text: str, seed: int) -> Reading:
        return Reading("yes" if text.lower().startswith("yes") else "no")

    def mark(self, sample: HeldOutSample, reading: Reading) -> float:
        return float(reading.value == sample.references[0])

    def constant(self, samples: Sequence[HeldOutSample]) -> Constant:
        return Constant("yes", Reading("yes"))

    def chance(self, sample: HeldOutSample) -> float:
        return 0.5

    def rows(
        self, metric: Metric[...], samples: Sequence[HeldOutSample], readings: Sequence[Reading], marks: Sequence[float]
    ) -> Sequence[Row]:
        said = [reading.value == "yes" for reading in readings]
        if metric.name == "yes_ratio":
            return [YES_RATIO.per_sample(yes) for yes in said]
        if metric.name in ("f1", "precision"):
            true = [sample.references[0] == "yes" for sample in samples]
            return [F1.per_sample(*pair) for pair in zip(said, true, strict=True)]
        return super().rows(metric, samples, readings, marks)


def test_a_kind_with_counts_and_groups_gets_its_controls_intervals_and_categories(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OWN_KINDS, "there_or_not", YesNo())  # type: ignore[index]
    raw = raw_dataset(context, COUNT)
    images = [sample.image for sample in load_samples(raw, load_task("captioning"))]
    rows = [
        {
            "id": f"{image}-{true}",
            "image": image,
            "question": f"{true}?",
            "answers": [true],
            "category": scene(image)[1],
        }
        for image in images
        for true in ("yes", "no")
    ]
    raw = raw_dataset(context, COUNT, more={"there.jsonl": rows})
    path = tmp_path / "there.yaml"
    content = {
        "name": "there", "version": 1, "kind": "there_or_not", "dataset": "there.jsonl", "max_new_tokens": 4, "headline": "f1",
        "prompt": {"format": "instruct", "template": "{question}"}, "metrics": list(YesNo.metrics),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    # Every third picture is said to hold everything, every other one is answered rightly.
    wrong = set(images[::3])

    def answer(sample: HeldOutSample, picture: str) -> str:
        return sample.references[0] if picture and sample.image not in wrong else "Yes."

    scores, folder = evaluated(context, str(path), raw, answer)
    values = {name: measure.value for name, measure in scores.metrics.items()}
    assert values == pytest.approx(
        {
            "accuracy": 100 * 20 / 24,
            "group_accuracy": 100 * 8 / 12,
            "f1": 100 * 24 / 28,
            "precision": 100 * 12 / 16,
            "yes_ratio": 100 * 16 / 24,
        },
        abs=1e-3,
    )
    assert scores.controls["constant"]["f1"].value == pytest.approx(200 / 3, abs=1e-3)
    assert scores.controls["constant"]["group_accuracy"].value == 0
    assert "chance" not in scores.controls  # what guessing adds to an F1 is not known
    assert scores.differences["constant"].value == pytest.approx(100 * (24 / 28 - 2 / 3), abs=1e-3)
    groups = scores.metrics["group_accuracy"]
    assert (groups.low, groups.high) == tuple(round(100 * end, 4) for end in wilson_interval(8, 12))
    for colour, score in scores.categories.items():
        shown = [image for image in images if scene(image)[1] == colour]
        errors = len(wrong & set(shown))
        assert score.value == pytest.approx(100 * 2 * len(shown) / (2 * len(shown) + errors), abs=1e-3)
    assert {name: scores.sign(name) for name in ("f1", "yes_ratio")} == {"f1": 1, "yes_ratio": 0}
    stored = read_sample_scores(folder)
    assert {name: round(100 * stored.statistic(name).value(), 4) for name in stored.metrics} == values
    difference = paired_tests(stored, stored, list(stored.metrics))
    assert {test.value for test in difference.values()} == {0}
    with pytest.raises(ValueError, match="neither a higher nor a lower yes_ratio is better: no gate"):
        EvaluateConfig.model_validate({"task": str(path), "gates": [{"metric": "yes_ratio", "minimum": 10}]})
    path.write_text(yaml.safe_dump(content | {"headline": "yes_ratio"}))
    with pytest.raises(ConfigurationError, match="neither a higher nor a lower yes_ratio is better"):
        load_task(str(path))
    path.write_text(yaml.safe_dump(content | {"kind": "vqa", "metrics": ["f1"]}))
    with pytest.raises(ConfigurationError, match="f1 is not one of vqa_accuracy"):
        load_task(str(path))


def test_a_kind_must_say_what_an_answer_adds_to_counts() -> None:
    samples = [HeldOutSample("1", "a.jpg", answer="A", options=("x", "y"))]
    for metric in (F1, YES_RATIO):
        with pytest.raises(NotImplementedError, match=f"MultipleChoice must say in `rows` .* adds to {metric.name}"):
            MultipleChoice().rows(metric, samples, [Reading("A")], [1.0])
    with pytest.raises(ValueError, match="right or wrong, but MultipleChoice marks parts"):
        MultipleChoice().rows(ACCURACY, samples, [Reading("A")], [0.5])


ROW = {"id": "1", "image": "a.jpg", "question": "Which?"}


@pytest.mark.parametrize(
    ("task", "row", "complaint"),
    [
        ("mmmu", ROW, "must have two `options` or more and an `answer`, or else `answers`"),
        ("mmmu", ROW | {"options": ["x", "y"], "answer": "A", "answers": ["x"]}, "or else `answers`"),
        ("mmmu", ROW | {"options": ["x", "y"], "answer": "C"}, "answer 'C' is not one of the letters AB"),
        ("vqav2", ROW, "question 1 has no `answers`"),
        ("textvqa", {"id": "1"}, "line 1 is not an open question (image: Field required)"),
        ("multiple_choice", ROW | {"answers": ["x"]}, "needs two options or more"),
    ],
)
def test_ground_truth_that_does_not_fit_its_kind_is_explained(
    tmp_path: Path, task: str, row: dict[str, Any], complaint: str
) -> None:
    questions(tmp_path, load_task(task).dataset, [row])
    with pytest.raises(InputError) as caught:
        load_samples(tmp_path, load_task(task))
    assert complaint in str(caught.value)


LETTER = "\n\nAnswer with the option's letter from the given choices directly."
MARKED = ROW | {
    "question": "<image 2> Which, <image> or <image 1>?",
    "options": ["<image 3>", "two  <image 2>", "none"],
    "answer": "B",
    "images": ["a.jpg", "b.jpg", "c.jpg"],
}


@pytest.mark.parametrize(
    ("task", "prompt", "pictures"),
    [
        ("mmmu", "Which, <image> or <image 1>?\n(A) \n(B) two\n(C) none" + LETTER, ("a.jpg",)),
        (
            "mmmu_interleaved",
            "<image> Which,  or <image>?\n(A) <image>\n(B) two  <image>\n(C) none" + LETTER,
            ("b.jpg", "a.jpg", "c.jpg", "b.jpg"),
        ),
    ],
)
def test_pictures_stand_in_front_or_where_their_marks_are(
    tmp_path: Path, task: str, prompt: str, pictures: tuple[str, ...]
) -> None:
    questions(tmp_path, "mmmu.jsonl", [MARKED, ROW | {"id": "2", "answers": ["4"]}])
    marked, bare = load_samples(tmp_path, load_task(task))
    assert marked.prompt == prompt.replace("<image 1>", "" if task == "mmmu" else "<image 1>")
    assert marked.pictures == pictures
    assert marked.options == ("<image 3>", "two  <image 2>", "none")  # as MMMU's program looks for them in an answer
    assert (bare.prompt.partition("\n")[0], bare.pictures) == ("Which?", ("a.jpg",))


def test_a_mark_without_its_picture_is_refused(tmp_path: Path) -> None:
    questions(tmp_path, "mmmu.jsonl", [MARKED | {"images": ["a.jpg", "b.jpg"]}])
    with pytest.raises(InputError, match="the text has a mark <image 3>, but the pictures are 2"):
        load_samples(tmp_path, load_task("mmmu"))


def test_braces_in_texts_stay_texts(tmp_path: Path) -> None:
    row = ROW | {"question": "what is {x} in {0}?", "options": ["{text}", "b}"], "answer": "A"}
    questions(tmp_path, "mmmu.jsonl", [row])
    (sample,) = load_samples(tmp_path, load_task("mmmu"))
    assert sample.prompt == "what is {x} in {0}?\n(A) {text}\n(B) b}" + LETTER


@pytest.mark.parametrize("options", [{"A": "red", "B": "blue"}, "['red', 'blue']", [1, None]])
def test_options_of_another_form_are_refused(tmp_path: Path, options: object) -> None:
    questions(tmp_path, "mmmu.jsonl", [ROW | {"options": options, "answer": "A"}])
    with pytest.raises(InputError, match="line 1 is not a question of MMMU"):
        load_samples(tmp_path, load_task("mmmu"))


def test_mmmu_asks_both_sorts_as_the_reference_recipe_does(tmp_path: Path) -> None:
    rows = [ROW | {"options": ["one", "two"], "answer": "B", "category": "Art"}, ROW | {"id": "2", "answers": ["4"]}]
    questions(tmp_path, "mmmu.jsonl", rows)
    asked = [sample.prompt for sample in load_samples(tmp_path, load_task("mmmu"))]
    assert asked == [
        "Which?\n(A) one\n(B) two\n\nAnswer with the option's letter from the given choices directly.",
        "Which?\nAnswer the question using a single word or phrase.",
    ]
