"""Generation, evaluation and report through their KFP shells, and generation in two tensor-parallel processes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from components.errors import StageError
from components.evaluate.component import evaluate, quality_gate
from components.evaluate.gates import enforce_gates
from components.generate.component import generate
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.report.component import report
from components.runs.folder import PACKAGE_NAME
from tests.support.evaluation_world import raw_dataset
from tests.support.local_worker import run_local_worker
from tests.support.model_world import World, build_world

# METEOR's slow start has its own test.
CAPTION_TASK = """
name: short_captions
version: 1
kind: captioning
dataset: captioning.json
prompt: {format: plain}
max_new_tokens: 4
postprocess: [strip, first_line]
metrics: [cider, bleu_4]
headline: cider
"""
SHORT_TASK = """
name: short_questions
version: 1
kind: multiple_choice
dataset: multiple_choice.jsonl
prompt: {format: instruct, template: "{question} {options}", option: "{letter} {text}"}
max_new_tokens: 4
metrics: [accuracy]
headline: accuracy
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def raw(world: World) -> Path:
    return raw_dataset(world.context, 9, side=32)


@dsl.component(base_image="unused", install_kfp_package=False)
def given(folder: str, artifact: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def]
    """Point at a stage folder that exists already."""
    import json

    with open(artifact.path, "w") as stream:
        json.dump({"folder": folder}, stream)


def pipeline(world: World, raw: Path, captions: str, questions: str) -> Any:
    context = world.context.model_dump(mode="json")
    gates = [{"minimum": 101, "action": "fail"}]
    settings = {
        "generate/captioning": {"task": captions, "partitions": 2},
        "evaluate/captioning": {"task": captions},
        "generate/questions": {"task": questions},
        "evaluate/questions": {"task": questions, "gates": gates},
        "report": {"preset": "test"},
        "quality_gate": {},
    }
    given_to_all = {"context": context, "settings": settings}

    @dsl.pipeline(name="evaluation")
    def evaluation() -> None:
        model = given(folder=str(world.model)).output
        data = given(folder=str(raw)).output
        folders = []
        for name, partitions in (("captioning", [0, 1]), ("questions", [0])):
            with dsl.ParallelFor(partitions) as partition:
                answered = generate(
                    **given_to_all, stage=f"generate/{name}", partition=partition, model=model, raw=data
                )
            scored = evaluate(
                **given_to_all,
                stage=f"evaluate/{name}",
                predictions=dsl.Collected(answered.outputs["predictions"]),
                model=model,
                raw=data,
            )
            folders.append(scored.outputs["folder"])
        written = report(**given_to_all, stage="report", pretrain=model, sft=model, evaluations=folders)
        quality_gate(**given_to_all, stage="quality_gate", evaluations=folders, exported=model).after(written)

    return evaluation


@pytest.mark.slow
def test_partitions_are_collected_scored_reported_and_gated(world: World, raw: Path, tmp_path: Path) -> None:
    captions, questions = tmp_path / "short_captions.yaml", tmp_path / "short_questions.yaml"
    captions.write_text(CAPTION_TASK)
    questions.write_text(SHORT_TASK)
    dag = pipeline(world, raw, str(captions), str(questions))
    compiler.Compiler().compile(dag, str(tmp_path / PACKAGE_NAME))
    # In a process of its own, as `vlm run` does: KFP's parallel tasks replace `print` and the root logger's handlers
    # and don't always put them back.
    done = run_local_worker(tmp_path, "evaluation")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = re.findall(r"Task \S*'([\w-]+)'\S* finished with status \S*FAILURE", done.stdout)
    assert set(failed) == {"quality-gate"}, done.stdout
    (page,) = (tmp_path / "kfp").glob("*/report/report")
    assert page.read_text().startswith("<!doctype html>")
    (samples, _) = sorted((tmp_path / "kfp").glob("*/evaluate*/samples"))
    assert "Short captions" in samples.read_text()
    folders = [Path(json.loads(path.read_text())["folder"]) for path in (tmp_path / "kfp").glob("*/evaluate*/scores")]
    assert len(folders) == 2
    # The gate can't be passed; everything before it has been published all the same.
    with pytest.raises(StageError, match="quality gates"):
        enforce_gates(folders)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_launches")
def test_two_tensor_parallel_processes_answer_like_one(world: World, raw: Path) -> None:
    def rows(tensor_parallel: int) -> list[tuple[str, str, str]]:
        config = GenerateConfig(task="captioning", tensor_parallel=tensor_parallel, max_new_tokens=5)
        output = run_generate(world.context, config, world.model, raw, 0)
        assert set(output.manifest.files) == {"predictions.jsonl", "generation.json"}
        lines = (output.folder / "predictions.jsonl").read_text().split("\n")
        return [(row["id"], row["control"], row["text"]) for row in map(json.loads, filter(None, lines))]

    assert rows(2) == rows(1)
