"""The stages that compute on a GPU, one after the other: training by its stage, generation, export with its proof."""

import json
from pathlib import Path

from components.context import RunContext
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.training.stage import run_training
from pipelines.preset_files import load_preset
from tests.support.small_chain import SMALL, Prepared


def test_a_model_is_trained_asked_and_exported(chain: Prepared, workspace: Path) -> None:
    context = RunContext(run_id="gpu", run_name="gpu", workspace=workspace)
    config = load_preset(
        "laptop",
        [
            *SMALL,
            "pretrain.recipe.iterations=60",
            "pretrain.recipe.precision=bf16",
            "pretrain.launch.processes_per_node=1",
            "pretrain.launch.tensor_parallel=1",
        ],
    )
    trained = run_training(context, "pretrain", config.pretrain, chain.model, chain.dataset)
    facts = json.loads((trained.folder / "manifest.json").read_text())["facts"]
    assert facts["device"] != "cpu", facts
    answers = run_generate(context, GenerateConfig(task="captioning", processes=1), trained.folder, chain.raw)
    lines = [json.loads(line) for line in (answers.folder / "predictions.jsonl").read_text().splitlines()]
    assert lines
    assert all("text" in line for line in lines)
    exported = run_export(context, ExportConfig(custom_code=True), trained.folder)
    report = json.loads((exported.folder / "export_report.json").read_text())
    assert report
