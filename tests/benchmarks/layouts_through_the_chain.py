"""Every layout of data through the whole chain, with its counts: from the dataset to scores and report, by the product's runner.

    python -m tests.benchmarks.layouts_through_the_chain [--rows 60] [--folder DIR] [LAYOUT ...]

Makes a small dataset in each layout and runs the laptop's DAG over it in a few steps. Some rows are not as they should be: one has a
picture that was cut off, one no picture where the layout knows texts without any; every third has two pictures where the
layout knows that. What the table says is read from the manifests of the runs. The models learn nothing in so few steps: what is shown is that
the data arrives.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.evaluate.scores import read_scores
from tests.support.data_samples import picture
from tests.support.paths import ROOT
from tests.support.table_datasets import (
    data_uri,
    img2dataset,
    rows_of,
    stored,
    write_json_lines,
    write_json_list,
    write_parquet,
    write_tar,
)

BROKEN, TEXT = 11, 7
SETTINGS = [
    "tracking.uri=none",
    "data.folder.held_out_pictures=8",
    "data.folder.max_reject_share=0.1",
    "wds_conversion.pretrain.max_reject_share=0.1",
    "wds_conversion.sft.max_reject_share=0.1",
    *(
        f"{stage}.{setting}"
        for stage in ("pretrain", "sft")
        for setting in (
            "recipe.iterations=4",
            "recipe.save_interval=4",
            "recipe.evaluation_interval=4",
            "recipe.evaluation_samples=4",
            "recipe.global_batch_size=8",
            "launch.processes_per_node=1",
            "launch.tensor_parallel=1",
        )
    ),
    "pretrain.recipe.caption_interval=4",
    "pretrain.recipe.caption_samples=2",
    *(
        f"evaluations.{name}.generate.{setting}"
        for name in ("captioning", "multiple_choice")
        for setting in ("tensor_parallel=1", "max_new_tokens=8")
    ),
]

Row = dict[str, Any]
Write = Callable[[Path, int], Path]
"""Writes a dataset of so many rows into a folder; returns what `data.source` names."""


class Run(NamedTuple):
    """What a run left: its workspace and its seconds."""

    workspace: Path
    seconds: float


def main() -> None:
    """Run every layout and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=f"of {', '.join(DATASETS)}; all by default")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where to work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layouts-", dir=arguments.folder) as temporary:
        folder = Path(temporary)
        print(
            "| dataset | layout | stage | rows | samples | of several pictures | of none | pictures | left out | can't be used | steps | "
            "evaluated | s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            flush=True,
        )
        for name in arguments.layouts or DATASETS:
            source = DATASETS[name](folder / name / "source", arguments.rows)
            run = run_chain(source, folder / name)
            for line in described(name, run):
                print(line, flush=True)


def run_chain(source: Path, folder: Path) -> Run:
    """Run the DAG over a dataset.

    Raises:
        SystemExit: It failed; its last lines say why.
    """
    workspace = folder / "workspace"
    command = [sys.executable, "-m", "pipelines.cli", "run", "--preset", "laptop", "--workspace", str(workspace)]
    overrides = [f"data.source={source.as_uri()}", *SETTINGS]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *(argument for override in overrides for argument in ("--set", override))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{folder.name}: the run failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return Run(workspace, time.monotonic() - start)


def described(name: str, run: Run) -> list[str]:
    """Return the rows of the table of a run."""
    raw = _facts(run.workspace, "download/dataset")
    lines = []
    for stage, evaluation in (("pretrain", "captioning"), ("sft", "multiple_choice")):
        facts, trained = _facts(run.workspace, f"wds_conversion/{stage}"), _facts(run.workspace, stage)
        layout = next((found["layout"] for found in facts.get("datasets", {}).values()), "llava (folder)")
        rows, left_out, rejects = facts["entries"], facts.get("left_out", {}), dict(facts["reject_causes"])
        if layout == "llava (folder)":  # the download holds out and rejects, before the conversion
            left_out = {"held_out": raw["held_out_pictures"]}
            rejects["at the download"] = raw["rejected_entries"]
            rows += raw["held_out_pictures"] + raw["rejected_entries"]
        (scores,) = run.workspace.glob(f"evaluate/{evaluation}*/*/scores.json")
        (report,) = run.workspace.glob("report/*/report.html")
        assert report.stat().st_size > 10_000
        scored = read_scores(scores.parent)
        assert scored.partial == ""
        cells = [
            name,
            layout,
            stage,
            rows,
            facts["samples"],
            facts["several_pictures"],
            facts["text_only"],
            sum(facts["formats"].values()),
            _counts(left_out),
            _counts(rejects),
            trained["step"],
            f"{evaluation} {scored.n_scored} of {scored.n_expected}",
            f"{run.seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _facts(workspace: Path, stage: str) -> Row:
    """Return the facts of the one finished folder of a stage."""
    (manifest,) = (workspace / stage).glob("*/manifest.json")
    facts: Row = json.loads(manifest.read_text())["facts"]
    return facts


def _counts(counts: Row) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in counts.items()) or "0"


def _odd(rows: list[Row], column: str) -> list[Row]:
    """Cut a picture off, and leave one out."""
    for number, content in ((BROKEN, {"bytes": picture(BROKEN)[:200], "path": f"{BROKEN}.jpg"}), (TEXT, None)):
        if number < len(rows):
            rows[number][column] = [content] if content and isinstance(rows[number][column], list) else content
    return rows


def _no_marker(rows: list[Row]) -> list[Row]:
    """Take the marker of the picture out that is not there."""
    first = rows[TEXT]["conversations"][0]
    first["value"] = first["value"].replace("<image>\n", "")
    return rows


def _llava_folder(folder: Path, rows: int) -> Path:
    made = [
        {
            **row,
            "image": row["image"]
            if row["image"] is None
            else {**row["image"], "path": f"images/{row['image']['path']}"},
        }
        for row in _odd(rows_of("llava", rows), "image")
    ]
    (folder / "images").mkdir(parents=True)
    write_json_list(folder / "captions.json", made)
    return folder


def _llava_lines(folder: Path, rows: int) -> Path:
    write_json_lines(folder / "train.jsonl", _no_marker(_odd(rows_of("llava", rows), "image")))
    return folder / "train.jsonl"


def _onevision(folder: Path, rows: int) -> Path:
    write_parquet(folder / "train-0.parquet", _no_marker(_odd(rows_of("onevision", rows), "image")))
    return folder


def _sharegpt(folder: Path, rows: int) -> Path:
    write_json_lines(folder / "train.jsonl", _odd(rows_of("sharegpt", rows), "images"))
    return folder / "train.jsonl"


def _cauldron(folder: Path, rows: int) -> Path:
    made = rows_of("cauldron", rows)
    for number, row in enumerate(made):
        row["images"] = row["images"][: 1 if number % 3 else 2]
    write_parquet(folder / "train-0.parquet", _odd(made, "images"))
    return folder


def _finevision(folder: Path, rows: int) -> Path:
    made = rows_of("cauldron", rows)
    for number, row in enumerate(made):
        row["images"] = row["images"][: 1 if number % 3 else 2]
        row["source"], row["relevance_ratings"], row["relevance_min"] = "chartqa", [4, 5], 4
    write_parquet(folder / "train-0.parquet", _odd(made, "images"))
    return folder


def _messages(folder: Path, rows: int) -> Path:
    """Write Hugging Face's spelling, pictures in a column of their own; every third row has text between two."""
    made = rows_of("messages", rows)
    for number, row in enumerate(made):
        if number % 3 == 0:
            row["images"].append(stored(number + 1000, "PNG"))
            row["messages"][0]["content"] += [{"type": "image", "text": None}, {"type": "text", "text": "Or this?"}]
    made[TEXT]["messages"][0]["content"].pop(0)
    write_parquet(folder / "train-0.parquet", _odd(made, "images"))
    return folder


def _openai(folder: Path, rows: int) -> Path:
    """Write OpenAI's spelling, pictures within the parts as data URIs; every third row has text between two."""
    made = []
    for number in range(rows):
        parts: list[Row] = [{"type": "text", "text": "What is"}, _url(number), {"type": "text", "text": "this?"}]
        if number % 3 == 0:
            parts += [_url(number + 1000), {"type": "text", "text": "And that?"}]
        if number == TEXT:
            parts = [{"type": "text", "text": "What is red?"}]
        answer = {"role": "assistant", "content": f"a red circle number {number}"}
        made.append({"messages": [{"role": "user", "content": parts}, answer]})
    made[BROKEN]["messages"][0]["content"][1]["image_url"]["url"] = data_uri(BROKEN)[:200]
    write_json_lines(folder / "train.jsonl", made)
    return folder / "train.jsonl"


def _url(number: int) -> Row:
    return {"type": "image_url", "image_url": {"url": data_uri(number)}}


def _captions(folder: Path, rows: int) -> Path:
    write_parquet(folder / "train-0.parquet", _odd(rows_of("captions", rows), "image"))
    return folder


def _questions(folder: Path, rows: int) -> Path:
    write_parquet(folder / "train-0.parquet", _odd(rows_of("questions", rows), "image"))
    return folder


def _img2dataset(folder: Path, rows: int) -> Path:
    made: Sequence[dict[str, bytes]] = [img2dataset(number) for number in range(rows)]
    made[BROKEN]["jpg"] = made[BROKEN]["jpg"][:200]
    half = rows // 2
    write_tar(folder / "00000.tar", made[:half])
    write_tar(folder / "00001.tar", made[half:], first=half)
    return folder


DATASETS: dict[str, Write] = {
    "LLaVA JSON and pictures": _llava_folder,
    "LLaVA JSON lines": _llava_lines,
    "the_cauldron parquet": _cauldron,
    "FineVision parquet": _finevision,
    "OneVision-Data parquet": _onevision,
    "messages, Hugging Face, parquet": _messages,
    "messages, OpenAI, JSON lines": _openai,
    "ShareGPT JSON lines": _sharegpt,
    "captions, five a picture, parquet": _captions,
    "questions parquet": _questions,
    "img2dataset tar": _img2dataset,
}


if __name__ == "__main__":
    main()
