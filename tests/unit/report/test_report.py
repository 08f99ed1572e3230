import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from components.context import RunContext
from components.errors import StageError
from components.evaluate.config import EvaluateConfig, Gate
from components.evaluate.stage import run_evaluate
from components.generate.config import GenerateConfig
from components.metrics import java
from components.progress import progress_folder
from components.report.config import ReportConfig
from components.report.stage import run_report
from components.runs.lineage import upstream_stages
from components.stage.runner import StageWork
from components.training.zero_shot_texts import Described, write_texts
from tests.support.data_samples import picture
from tests.support.evaluation_world import (
    finished_stage,
    good_caption,
    good_choice,
    predictions,
    raw_dataset,
    stub_model,
)
from tests.support.html_pages import HOSTILE, parsed


def trained(context: RunContext, stage: str, inputs: dict[str, Path | str]) -> Path:
    def write(work: StageWork) -> dict[str, Any]:
        rows = [
            {"step": step, "loss": 5 * math.exp(-step / 30), "learning_rate": 1e-3 * (1 - step / 100)}
            | ({"validation_loss": 5.1 * math.exp(-step / 30)} if step % 20 == 0 else {})
            for step in range(1, 101)
        ]
        (work.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if stage == "sft":
            for step in (0, 100):
                said = Described(step, "to the right", f"{HOSTILE} of step {step}", "Where is the star?")
                write_texts(work.folder, step, [said])
        return {
            "samples": 6400,
            "median_samples_per_s": 100.0,
            "tensor_parallel": 2,
            "data_parallel": 1,
            "device": "cpu",
        }

    return finished_stage(context, stage, write, inputs, learning_rate=1e-3)


def streamed(context: RunContext) -> Path:
    """A conversion of a mixture that left samples out."""

    def write(work: StageWork) -> dict[str, Any]:
        path = work.folder / "left_out" / "min_side" / "pretrain-chart-000000-0.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(1))
        counts = {"layout": "cauldron", "rows": 5000, "samples": 4990, "reject_causes": {"broken_picture": 3}}
        datasets = {
            "chart": {**counts, "source": f"hf://datasets/{HOSTILE}", "weight": 3.0, "left_out": {"min_side": 7}},
            "other": {**counts, "source": "s3://b/k", "weight": 1.0, "left_out": {}},
        }
        return {"datasets": datasets, "left_out": {"min_side": 7}}

    return finished_stage(context, "wds_conversion/pretrain", write, {"raw": "file:///x#1"})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    workspace = tmp_path_factory.mktemp("workspace")
    return RunContext(run_id="run-7", run_name=f"evening {HOSTILE}", workspace=workspace, git_commit="0123456789abcdef")


@pytest.fixture(scope="module")
def report(context: RunContext) -> str:
    """The report of a run with hostile captions, a failed gate and a reused stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java, "find_java", lambda: None)
        raw = raw_dataset(context, 20)
        combined = stub_model(context, "combine")
        pretrain = trained(context, "pretrain", {"model": combined, "raw": raw, "dataset": streamed(context)})
        sft = trained(context, "sft", {"model": pretrain, "raw": raw})
        captions = predictions(
            context,
            GenerateConfig(task="captioning", partitions=2),
            pretrain,
            raw,
            lambda sample, picture: HOSTILE if int(sample.id) % 2 else good_caption(sample, picture),
        )
        choices = predictions(context, GenerateConfig(task="multiple_choice"), sft, raw, good_choice)
        gates = (Gate(minimum=99), Gate(margin=1, action="warn"))
        evaluations = [
            run_evaluate(context, EvaluateConfig(task="captioning"), captions, pretrain, raw).folder,
            run_evaluate(context, EvaluateConfig(task="multiple_choice", gates=gates), choices, sft, raw).folder,
        ]
        mark_reused(context, "combine")
        output = run_report(context, ReportConfig(preset="laptop", samples=8), pretrain, sft, evaluations)
    return (output.folder / "report.html").read_text(encoding="utf-8")


def mark_reused(context: RunContext, stage: str) -> None:
    (path,) = progress_folder(context.workspace, context.run_id).glob(f"{stage}-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "reused"}))


def test_the_report_is_well_formed_and_shows_every_part(report: str) -> None:
    page = parsed(report)
    for text in (
        "laptop", "0123456789ab", "CIDEr", "Accuracy", "Blank picture", "Another sample's picture", "Best constant answer", "Guessing",
        "Pretraining", "Instruction tuning", "Training loss", "Where the time went", "Configuration and lineage",
        "generate/captioning, part 1 of 2", "reused", "not passed", "passed", "No Java runtime", "combinations of size",
        "Asked: Where is the star?", "Its own answer: to the right", f"{HOSTILE} of step 100",
    ):  # fmt: skip
        assert text in page.text, text
    tags = [tag for tag, _ in page.tags]
    assert tags.count("article") == 16
    assert tags.count("svg") == 4
    assert tags.count("img") == 17


def test_the_report_escapes_what_the_model_and_the_user_wrote(report: str) -> None:
    page = parsed(report)
    assert HOSTILE in page.text
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.tags}
    assert all(
        (attributes["src"] or "").startswith("data:image/jpeg;base64,") for tag, attributes in page.tags if tag == "img"
    )
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_report_needs_nothing_from_outside(report: str) -> None:
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(", report)
    assert "default-src 'none'" in report
    assert all(
        (attributes["href"] or "").startswith("#") for tag, attributes in parsed(report).tags if "href" in attributes
    )


def test_lineage_lists_inputs_before_what_uses_them(context: RunContext, report: str) -> None:
    (sft,) = (context.workspace / "sft").glob("*/manifest.json")
    stages = [record.manifest.stage for record in upstream_stages(context, [sft.parent])]
    assert stages == ["combine", "download_dataset", "wds_conversion/pretrain", "pretrain", "sft"]


def test_another_run_of_the_same_results_gets_its_own_report(context: RunContext, report: str) -> None:
    assert len(list((context.workspace / "report").glob("*/manifest.json"))) == 1
    folders = {
        name: [path.parent for path in sorted((context.workspace / name).glob("**/manifest.json"))]
        for name in ("pretrain", "sft", "evaluate")
    }
    other = context.model_copy(update={"run_id": "run-8", "run_name": "morning"})
    output = run_report(other, ReportConfig(samples=0), folders["pretrain"][0], folders["sft"][0], folders["evaluate"])
    text = parsed((output.folder / "report.html").read_text()).text
    assert "morning" in text
    assert "evening" not in text
    assert len(list((context.workspace / "report").glob("*/manifest.json"))) == 2


def test_an_unfinished_input_is_refused(context: RunContext, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not a finished stage folder"):
        run_report(context, ReportConfig(), tmp_path, tmp_path, [])


def test_a_mixture_says_what_came_from_where_and_shows_what_was_left_out(report: str) -> None:
    section = report.split("What pretrain learnt from")[1].split("</section>")[0]
    text = " ".join(parsed(section.split("</h2>")[1]).text.split())
    assert "charthf://datasets/" in text
    assert "cauldron75%5,0004,9907 min_side3 broken_picture" in text
    assert "Left out: min_side (7)" in text
    assert section.count("<img ") == 1
    assert "<script>" not in section
