"""What is said of a run's data."""

from pathlib import Path

import yaml

from components.runs.folder import CONFIG_NAME, RunFolder, new_run
from components.runs.rows import StageRow
from components.stage.manifest import Manifest, write_manifest
from pipelines.data_notes import data_notes
from pipelines.preset_files import load_preset


def found(tmp_path: Path, **facts: int) -> tuple[RunFolder, list[StageRow]]:
    run = new_run(tmp_path, "t")
    overrides = [
        f"{stage}.recipe.{what}" for stage in ("pretrain", "sft") for what in ("iterations=100", "global_batch_size=32")
    ]
    settings = load_preset("laptop", overrides).model_dump(mode="json")
    (run.path / CONFIG_NAME).write_text(yaml.safe_dump(settings))
    folder = tmp_path / "download" / "dataset" / "key"
    folder.mkdir(parents=True)
    manifest = Manifest(
        stage="download/dataset", version=1, key="key", inputs={}, settings={}, facts=facts, files={}, started="", duration_s=1.0
    )  # fmt: skip
    write_manifest(folder, manifest)
    return run, [StageRow("open_run", "done"), StageRow("download/dataset", "reused", folder=folder)]


def test_a_handful_of_pictures(tmp_path: Path) -> None:
    run, rows = found(tmp_path, pictures=12, held_out_pictures=4, pretrain_entries=8, sft_entries=8, rejected_entries=1)
    assert data_notes(run, rows) == (
        "data: 12 pictures, 4 held out; 8 captions, seen 400 times (pretrain), 400 times (sft)",
        f"1 entries can't be used: {rows[1].folder}/rejects.jsonl says why.",
        "So little is learnt by heart and teaches next to nothing about other pictures: expect scores like the controls'.",
        "4 held-out pictures measure roughly: mind the intervals.",
    )


def test_enough_pictures_get_one_line(tmp_path: Path) -> None:
    run, rows = found(tmp_path, pictures=8200, held_out_pictures=200, pretrain_entries=8000, sft_entries=4000)
    assert data_notes(run, rows) == (
        "data: 8,200 pictures, 200 held out; 8,000 captions, seen 0.4 times (pretrain), 0.8 times (sft)",
    )


def test_nothing_is_said_before_the_data_is_here(tmp_path: Path) -> None:
    run, rows = found(tmp_path)
    assert data_notes(run, [rows[0], StageRow("download/dataset", "running")]) == ()
