"""Real files of benchmarks, read by the download's readers, and published answers of models, scored by the tasks.

    python -m tests.benchmarks.real_answers --llava DIR --pope DIR --mme DIR --seed DIR --mmmu DIR --ocrbench DIR --chartqa DIR --mova DIR

Every option names a clone: haotian-liu/LLaVA, AoiDragon/POPE, BradyFU/Awesome-Multimodal-Large-Language-Models (with its branch
Evaluation), AILab-CVC/SEED-Bench, MMMU-Benchmark/MMMU, Yuliang-Liu/MultimodalOCR, RobustCQA/ChartQA-Split (ChartQA's test split,
in parts), TempleX98/MoVA (DocVQA's validation split and AI2D's test split in a layout of its own). LLaVA's history holds the questions
that LLaVA-1.5-13B was asked, and its answers; that the prompts are ours, letter by letter, is part of the table. Where a repository
has no pictures, a grey one stands in. Nothing of the data is kept.
"""

import argparse
import html
import io
import json
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from components.download.benchmarks.reading import GroundTruth, read_annotations, read_tables
from components.progress import Progress
from components.tasks.kind import MODEL, Examination
from components.tasks.kinds.questions import QuestionRow
from components.tasks.loading import load_task
from components.tasks.picture_marks import with_known_marks
from components.tasks.registry import find_kind
from components.tasks.sample import HeldOutSample
from tests.support.published_benchmarks import parquet

LLAVA_POPE = "e3e3926"
LLAVA_ANSWERS = "32cebc3809441cc40d8ac7b2855d148308741f2a"
_EVAL = "playground/data/eval"
_LETTERED = re.compile(r"^([A-Z])\. (.*?)(?=\n[A-Z]\. |\Z)", re.MULTILINE | re.DOTALL)
_SEVEN = tuple(f"image_{number}" for number in range(1, 8))

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        benchmark: What was read.
        rows: How many rows of it.
        prompts: Of how many our prompt was compared with the one that the model was shown, and how many were the same.
        model: Whose answers were scored; empty for none.
        published: Its published figure, or its authors' own count of right answers.
        here: Our figure.
        unread: How many of its answers are unreadable.
    """

    benchmark: str
    rows: int
    prompts: str = ""
    model: str = ""
    published: str = ""
    here: str = ""
    unread: float | None = None


class Clone:
    """Files of a clone.

    Args:
        folder: The clone.
        commit: Which commit of it.
    """

    def __init__(self, folder: Path, commit: str = "HEAD") -> None:
        self._folder, self._commit = folder, commit

    def at(self, commit: str) -> "Clone":
        """Return another commit of the clone."""
        return Clone(self._folder, commit)

    def read(self, path: str) -> bytes:
        """Return a file."""
        command = ["git", "-C", str(self._folder), "show", f"{self._commit}:{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def lines(self, path: str) -> list[Any]:
        """Return a file of JSON lines."""
        return [json.loads(line) for line in self.read(path).decode().splitlines() if line.strip()]


def samples_of(name: str, files: dict[str, bytes]) -> list[HeldOutSample]:
    """Read a benchmark's annotations as its authors publish them."""
    truth = GroundTruth()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for file, content in files.items():
            path = Path(folder) / file
            path.write_bytes(content)
            paths.append(path)
        read_annotations(name, paths, lambda path, picture: picture, truth)
    return asked(name, truth.questions[f"{name}.jsonl"])


def table_samples(
    name: str, file: str, rows: Sequence[Row], columns: Sequence[str] = ("image",)
) -> list[HeldOutSample]:
    """Read rows out of a table with grey pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (128, 128, 128)).save(buffer, "PNG")
    truth, picture = GroundTruth(), {"bytes": buffer.getvalue(), "path": "grey.png"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parquet(folder / file, [{**row, **dict.fromkeys(columns, picture)} for row in rows])
        (folder / "pictures").mkdir()
        read_tables(name, [folder / file], folder, truth, Progress("download", None))
    return asked(name, truth.questions[f"{name}.jsonl"])


def asked(task_name: str, rows: Sequence[Row]) -> list[HeldOutSample]:
    """Return samples with their prompts."""
    task = load_task(task_name)
    kind = find_kind(task.kind)
    samples = [QuestionRow.model_validate(row).sample() for row in rows]
    return [replace(sample, prompt=kind.ask(task, sample)) for sample in samples]


def scores(task_name: str, samples: Sequence[HeldOutSample], texts: Sequence[str]) -> dict[str, float]:
    """Return metric to value, in points, and the number of answers that can't be read as "unread"."""
    task = load_task(task_name)
    said = {MODEL: [task.clean(text) for text in texts]}
    found = find_kind(task.kind).examine(Examination(task, samples, said, Path()))
    values = {name: 100 * statistic.value() for name, statistic in found.statistics[MODEL].items()}
    return {**values, "unread": found.unparsed[MODEL]}


def same(pairs: Sequence[tuple[str, str]]) -> str:
    """Return how many prompts of how many are the same."""
    return f"{sum(ours == theirs for ours, theirs in pairs):,} of {len(pairs):,}"


def pope(llava: Clone, repository: Clone) -> list[Line]:
    """POPE's own files, of today for reading and of the commit that LLaVA names for scoring: its random split was another."""
    splits = ("adversarial", "popular", "random")
    names = {f"coco_pope_{split}.json": f"output/coco/coco_pope_{split}.json" for split in splits}
    today = samples_of("pope", {name: repository.read(path) for name, path in names.items()})
    samples = samples_of("pope", {name: repository.at(LLAVA_POPE).read(path) for name, path in names.items()})
    known = {(sample.category, sample.image, sample.question): sample for sample in samples}
    questions, answers = (
        llava.lines(f"{_EVAL}/pope/llava_pope_test.jsonl"),
        llava.lines(f"{_EVAL}/pope/answers/llava-v1.5-13b.jsonl"),
    )
    pairs = [
        (known[key], asked, answer["text"])
        for asked, answer in zip(questions, answers, strict=True)
        if (key := (asked["category"], asked["image"], asked["text"].partition("\n")[0])) in known
    ]
    found = scores("pope", [sample for sample, _, _ in pairs], [text for _, _, text in pairs])
    prompts = same([(sample.prompt, asked["text"]) for sample, asked, _ in pairs])
    return [Line("POPE", len(today), prompts, "LLaVA-1.5-13B", "85.9", f"{found['macro_f1']:.2f}", found["unread"])]


def mme(llava: Clone, repository: Clone) -> list[Line]:
    """MME's own questions and the answers of LaVIN that come with its program."""
    with zipfile.ZipFile(io.BytesIO(repository.read("tools/eval_tool.zip"))) as archive:

        def folder(name: str) -> dict[str, bytes]:
            return {
                path.rpartition("/")[2]: archive.read(path)
                for path in archive.namelist()
                if path.startswith(f"eval_tool/{name}/") and path.endswith(".txt")
            }

        files, lavin = folder("Your_Results"), folder("LaVIN")
    samples = samples_of("mme", files)
    names = {file.removesuffix(".txt") for file in files}
    said = {
        (name, line.split("\t")[0], line.split("\t")[1].removesuffix("Please answer yes or no.").strip()): line.split(
            "\t"
        )[3]
        for name in names
        for line in lavin[f"{name}.txt"].decode().splitlines()
        if line.strip()
    }
    texts = [said[sample.category, sample.unit.split("/")[1], sample.question] for sample in samples]
    theirs = scores("mme", samples, texts)
    lines = [
        Line("MME", len(samples), "", "LaVIN-13B", "963.6", f"{theirs['mme_perception']:.2f}", theirs["unread"]),
    ]
    questions, answers = (
        llava.lines(f"{_EVAL}/MME/llava_mme.jsonl"),
        llava.lines(f"{_EVAL}/MME/answers/llava-v1.5-13b.jsonl"),
    )
    known = {(sample.image, sample.question): sample for sample in samples}
    pairs = [
        (known[key], asked["text"], answer["text"])
        for asked, answer in zip(questions, answers, strict=True)
        if (key := (asked["image"], asked["text"].partition("\n")[0])) in known
    ]
    found = scores("mme", [sample for sample, _, _ in pairs], [text for _, _, text in pairs])
    prompts = same([(sample.prompt, text) for sample, text, _ in pairs])
    return [
        *lines,
        Line(
            "MME", len(samples), prompts, "LLaVA-1.5-13B", "1531.3", f"{found['mme_perception']:.2f}", found["unread"]
        ),
    ]


def scienceqa(llava: Clone) -> list[Line]:
    """ScienceQA's test questions out of what LLaVA was asked, in the hub's columns."""
    results = json.loads(llava.read(f"{_EVAL}/scienceqa/answers/llava-v1.5-13b_output.jsonl"))
    pictured = [row for row in results["correct"] + results["incorrect"] if row["is_multimodal"]]
    rows = []
    for row in pictured:
        lines = row["question"].removeprefix("<image>\n").rpartition("\nAnswer with")[0]
        choices = _LETTERED.findall(lines)
        body = lines[: lines.rindex(f"\nA. {dict(choices)['A']}")]
        hint, question = (
            ("", body) if not body.startswith("Context: ") else body.removeprefix("Context: ").rsplit("\n", 1)
        )
        rows.append(
            {
                "question": question,
                "choices": [text for _, text in choices],
                "answer": ord(row["ground_truth"]) - 65,
                "hint": hint,
            }
        )
    samples = table_samples("scienceqa", "test-00000-of-00001.parquet", rows)
    found = scores("scienceqa", samples, [row["pred"] for row in pictured])
    prompts = same(
        [(s.prompt, row["question"].removeprefix("<image>\n")) for s, row in zip(samples, pictured, strict=True)]
    )
    return [
        Line("ScienceQA", len(samples), prompts, "LLaVA-1.5-13B", "71.6", f"{found['accuracy']:.2f}", found["unread"])
    ]


def mmbench(llava: Clone) -> list[Line]:
    """MMBench dev with its rotations, out of the sheet that LLaVA handed in."""
    prompts = llava.lines(f"{_EVAL}/mmbench/answers/mmbench_dev_20230712/llava-v1.5-13b.jsonl")
    sheet = sheet_rows(llava.read(f"{_EVAL}/mmbench/answers_upload/mmbench_dev_20230712/llava-v1.5-13b.xlsx"))
    rows = []
    for row, asked_before in zip(sheet, prompts, strict=True):
        assert int(row["index"]) == asked_before["question_id"]
        hint = asked_before["prompt"].partition(row["question"])[0].removesuffix("\n")
        rows.append(
            {
                **{name: row.get(name) for name in ("question", "A", "B", "C", "D", "answer")},
                "index": int(row["index"]),
                "hint": hint,
            }
        )
    whole = [place for place, row in enumerate(rows) if row["index"] < 1_000_000]
    samples = table_samples("mmbench", "mmbench_dev.parquet", rows)
    vanilla = scores("mmbench", samples, [sheet[place]["prediction"] for place in whole])
    suffix = "\nAnswer with the option's letter from the given choices directly."
    equal = same(
        [(sample.prompt, prompts[place]["prompt"] + suffix) for sample, place in zip(samples, whole, strict=True)]
    )
    turned = [
        QuestionRow(
            id=str(row["index"]), image="grey.png", question=row["question"], answer=row["answer"],
            options=tuple(row[name] for name in "ABCD" if row[name]), unit=str(row["index"] % 1_000_000),
        ).sample()
        for row in rows
    ]  # fmt: skip
    circular = scores("mmbench_circular", turned, [row["prediction"] for row in sheet])
    return [
        Line("MMBench", len(samples), equal, "LLaVA-1.5-13B", "", f"{vanilla['accuracy']:.2f}", vanilla["unread"]),
        Line(
            "MMBench, circular",
            len(turned),
            "",
            "LLaVA-1.5-13B",
            "67.7",
            f"{circular['group_accuracy']:.2f}",
            circular["unread"],
        ),
    ]


def sheet_rows(content: bytes) -> list[dict[str, str]]:
    """Return the rows of a spreadsheet whose texts stand in its cells."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        text = archive.read("xl/worksheets/sheet1.xml").decode()
    table = []
    for row in re.findall(r"<row [^>]*>(.*?)</row>", text, re.DOTALL):
        cells = re.findall(r'<c r="([A-Z]+)\d+"[^>]*?(?:/>|>(.*?)</c>)', row, re.DOTALL)
        table.append({column: html.unescape(re.sub(r"<[^>]+>", "", value or "")) for column, value in cells})
    names = table[0]
    return [{names[column]: value for column, value in row.items()} for row in table[1:]]


def seedbench(llava: Clone, repository: Clone) -> list[Line]:
    """SEED-Bench's truth out of the answers of GPT-4V; LLaVA's letters. Videos have a v in their ids."""
    text = repository.read("evaluate_result/SEED-Bench-1/GPT-4V.json").decode()
    truth = {
        row["question_id"]: row["gt_answer"]
        for line in text.splitlines()
        if line.strip()
        for row in [json.loads(line.rstrip(","))]
    }
    said = {
        row["question_id"]: row["prediction"]
        for row in llava.lines(f"{_EVAL}/seed_bench/answers_upload/llava-v1.5-13b.jsonl")
    }
    names = [name for name in said if not name.startswith("v")]
    rows = [
        {
            "question_id": name, "question_type_id": 1, "data_type": "image", "question": "?", "answer": truth[name],
            **{f"choice_{letter}": letter for letter in "abcd"},
        }
        for name in names
    ]  # fmt: skip
    samples = table_samples("seedbench", "test-00000-of-00001.parquet", rows)
    found = scores("seedbench", samples, [said[name] for name in names])
    return [
        Line(
            "SEED-Bench, images", len(samples), "", "LLaVA-1.5-13B", "68.2", f"{found['accuracy']:.2f}", found["unread"]
        )
    ]


def mmmu(repository: Clone) -> list[Line]:
    """MMMU's validation questions as its authors' outputs hold them, and MMMU-Pro's as GPT-4o's do."""
    lines = []
    for model, published in (("llava1.5_13b", "36.4"), ("qwen_vl", "35.9")):
        listing = json.loads(repository.read("mmmu/answer_dict_val.json"))
        subjects = sorted({name.removeprefix("validation_").rpartition("_")[0] for name in listing})
        outputs = [
            row
            for name in subjects
            for row in json.loads(repository.read(f"mmmu/example_outputs/{model}/{name}/output.json"))
        ]
        rows = []
        for row in outputs:
            closed = row["question_type"] == "multiple-choice"
            answer = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            extra = (
                {"options": [with_known_marks(text, 7) for text in row["index2ans"].values()], "answer": answer[0]}
                if closed
                else {"answers": answer}
            )
            subject = row["id"].removeprefix("validation_").rpartition("_")[0]
            rows.append(
                {
                    "id": row["id"],
                    "image": "grey.png",
                    "images": ["grey.png"] * 7,
                    "question": "?",
                    "category": subject,
                    **extra,
                }
            )
        found = scores("mmmu", asked("mmmu", rows), [row["response"] for row in outputs])
        lines.append(Line("MMMU", len(rows), "", model, published, f"{found['accuracy']:.2f}", found["unread"]))
    for form, task, pictures in (
        ("standard(10 options)", "mmmu_pro", _SEVEN),
        ("vision", "mmmu_pro_vision", ("image",)),
    ):
        outputs = repository.lines(f"mmmu-pro/output/gpt-4o_{form}_direct.jsonl")
        columns = ("id", "question", "options", "answer", "subject")
        rows = [{name: row[name] for name in columns if name in row} for row in outputs]
        samples = table_samples(task, "test-00000-of-00001.parquet", rows, pictures)
        found = scores(task, samples, [row["response"] if isinstance(row["response"], str) else "" for row in outputs])
        counted = 100 * sum(bool(row["if_right"]) for row in outputs) / len(outputs)
        lines.append(
            Line(
                load_task(task).title or task,
                len(rows),
                "",
                "GPT-4o, direct",
                f"{counted:.2f}",
                f"{found['accuracy']:.2f}",
                found["unread"],
            )
        )
    return lines


def read_only(ocrbench: Clone, chartqa: Clone, mova: Clone) -> list[Line]:
    """Files without answers."""
    ocr = samples_of("ocrbench", {"OCRBench.json": ocrbench.read("OCRBench/OCRBench/OCRBench.json")})
    charts: dict[str, bytes] = {}
    for split in ("human", "augmented"):
        parts = [
            json.loads(chartqa.read(f"dataset/{form}/test_{split}_{kind}.json"))
            for form in ("simple", "complex")
            for kind in ("simple", "complex")
        ]
        charts[f"test_{split}.json"] = json.dumps([row for part in parts for row in part]).encode()
    chart = samples_of("chartqa", charts)
    documents = mova.lines(f"{_EVAL}/docvqa/val.jsonl")
    short = "\nAnswer the question using a single word or phrase."
    docs = table_samples(
        "docvqa",
        "validation-00000-of-00001.parquet",
        [
            {
                "questionId": str(row["question_id"]),
                "question": row["question"].removesuffix(short),
                "answers": row["answer"],
                "question_types": [],
            }
            for row in documents
        ],
    )
    diagrams = mova.lines(f"{_EVAL}/ai2d/test.jsonl")
    rows = []
    for row in diagrams:
        body = row["question"].rpartition("\nAnswer with")[0]
        options = [text for _, text in _LETTERED.findall(body)]
        rows.append(
            {"question": body[: body.index("\nA. ")], "options": options, "answer": str(ord(row["answer"]) - 65)}
        )
    ai2d = table_samples("ai2d", "test-00000-of-00001.parquet", rows)
    return [
        Line("OCRBench", len(ocr)),
        Line("ChartQA", len(chart)),
        Line(
            "DocVQA",
            len(docs),
            same([(sample.prompt, row["question"]) for sample, row in zip(docs, documents, strict=True)]),
        ),
        Line(
            "AI2D",
            len(ai2d),
            same([(sample.prompt, row["question"]) for sample, row in zip(ai2d, diagrams, strict=True)]),
        ),
    ]


def main() -> None:
    """Read, score and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("llava", "pope", "mme", "seed", "mmmu", "ocrbench", "chartqa", "mova"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    llava = Clone(given.llava, LLAVA_ANSWERS)
    parts: list[Callable[[], list[Line]]] = [
        lambda: pope(llava, Clone(given.pope)),
        lambda: mme(llava, Clone(given.mme, "Evaluation")),
        lambda: scienceqa(llava),
        lambda: mmbench(llava),
        lambda: seedbench(llava, Clone(given.seed)),
        lambda: mmmu(Clone(given.mmmu)),
        lambda: read_only(Clone(given.ocrbench), Clone(given.chartqa), Clone(given.mova)),
    ]
    print(
        "| benchmark | rows | prompts as the model was asked | answers of | published | here | unreadable |\n|---|---|---|---|---|---|---|"
    )
    for part in parts:
        for line in part():
            unread = "" if line.unread is None else f"{line.unread:.0f}"
            cells = (line.benchmark, f"{line.rows:,}", line.prompts, line.model, line.published, line.here, unread)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
