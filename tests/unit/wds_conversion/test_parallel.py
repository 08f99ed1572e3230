"""The conversion fanned out over tasks, through KFP: compiled, and run by its local runner."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from components.context import RunContext
from components.runs.folder import PACKAGE_NAME
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from pipelines.compile import compile_pipeline
from pipelines.opening import stored_settings
from pipelines.preset_files import load_preset
from pipelines.stages import training_stages
from pipelines.vlm_training import build_conversion
from tests.support import data_samples
from tests.support.local_worker import run_local_worker
from tests.support.packages import read_package

STAGE = "wds_conversion/pretrain"


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def point(folder: str, raw: dsl.Output[dsl.Dataset]):
    """Stand in for the download: point at a raw dataset folder."""
    import json
    from pathlib import Path

    Path(raw.path).write_text(json.dumps({"folder": folder}))


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def note(shards: dsl.Input[dsl.Dataset], path: str):
    """Stand in for the split: write down what the conversion hands over."""
    import shutil

    shutil.copyfile(shards.path, path)


def test_two_parts_in_kfps_local_runner(tmp_path: Path) -> None:
    raw = data_samples.make_captions(tmp_path / "raw", 24)
    config = load_preset("laptop", ["wds_conversion.pretrain.parallel_tasks=2"])
    convert = build_conversion(config, next(row for row in training_stages(config) if row.name == STAGE))
    context = RunContext(run_id="parallel", run_name="parallel", workspace=tmp_path / "workspace")
    settings = stored_settings(config.wds_conversion.pretrain)

    @dsl.pipeline(name="parts")
    def pipeline(context: dict, settings: dict, folder: str, path: str):  # type: ignore[no-untyped-def, type-arg]
        shards = convert(context=context, settings=settings, raw=point(folder=folder).outputs["raw"])
        note(shards=shards, path=path)

    arguments = {
        "context": stored_settings(context),
        "settings": {STAGE: settings},
        "folder": str(raw),
        "path": str(tmp_path / "pointer.json"),
    }
    compiler.Compiler().compile(pipeline, str(tmp_path / PACKAGE_NAME), pipeline_parameters=arguments)
    done = run_local_worker(tmp_path, "parallel")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [
        json.loads(path.read_text()) for path in (tmp_path / "workspace").glob("wds_conversion/*/parts/*/manifest.json")
    ]
    assert sorted(part["inputs"]["part"] for part in parts) == ["0 of 2", "1 of 2"]
    pointer = json.loads((tmp_path / "pointer.json").read_text())
    assert pointer["facts"]["samples"] == 24
    alone = run_wds_conversion(
        RunContext(run_id="alone", run_name="alone", workspace=tmp_path / "alone"),
        WdsConversionConfig.model_validate({**settings, "parallel_tasks": 1}),
        raw,
    )
    manifest = json.loads((Path(pointer["folder"]) / "manifest.json").read_text())
    assert manifest["key"] == alone.manifest.key
    assert manifest["files"] == alone.manifest.model_dump()["files"]


@pytest.mark.usefixtures("shallow_stacks")
@pytest.mark.parametrize("use", ["pretrain", "sft"])
def test_the_pipeline_fans_out_where_the_preset_says(tmp_path: Path, use: str) -> None:
    compile_pipeline(
        load_preset("mistral-clip-7b", [f"wds_conversion.{use}.parallel_tasks=3"]), tmp_path / "package.yaml"
    )
    package, platform = read_package(tmp_path / "package.yaml")
    tasks: dict[str, Any] = package["components"][f"comp-wds-conversion-{use}"]["dag"]["tasks"]
    (loop,) = (task for name, task in tasks.items() if name.startswith("for-loop"))
    assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2]"
    producer = tasks["wds-conversion-merge"]["inputs"]["artifacts"]["parts"]["taskOutputArtifact"]["producerTask"]
    assert producer.startswith("for-loop")
    stages = package["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert {f"wds-conversion-{use}", "wds-conversion"} <= set(stages), "the other use stays one task"
    executors = package["deploymentSpec"]["executors"]
    on_volume = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in ("exec-wds-conversion-part", "exec-wds-conversion-merge"):
        assert executors[name]["container"]["resources"]["resourceMemoryRequest"] == "64Gi"
        assert on_volume[name]["pvcMount"]
