"""The examples of docs/extending.md, done to a copy of the code as the page says, and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
_FIRST_LINE = re.compile(r"# (?P<add>add to )?(?P<path>[\w./]+)")


def blocks() -> list[str]:
    return re.findall(r"^```(?:python|yaml)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def write_or_add(root: Path, block: str) -> None:
    """Do to a checkout what a code block says: a file of its own, or rows and their imports in one that exists."""
    first, _, rest = block.partition("\n")
    match = _FIRST_LINE.fullmatch(first)
    assert match, f"the block does not say where it goes: {first}"
    path = root / match["path"]
    if not match["add"]:
        assert not path.exists(), f"{path} exists"
        path.write_text(rest, encoding="utf-8")
        return
    imports, _, rows = rest.partition("# in ")
    table, _, rows = rows.partition("\n")
    text = path.read_text(encoding="utf-8")
    opening = rf"^({table}\b.*[({{]|def {table}\b(?:.*\n)*?    return \()$"
    text, count = re.subn(opening, lambda found: f"{found[0]}\n{rows.rstrip()}", text, count=1, flags=re.MULTILINE)
    assert count == 1, f"{path} has no table {table}"
    path.write_text(re.sub(r"^(?=from )", imports, text, count=1, flags=re.MULTILINE), encoding="utf-8")


def run(checkout: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_code(checkout: Path, code: str) -> str:
    return run(checkout, "-W", "ignore", "-c", textwrap.dedent(code))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with everything that the page adds."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("components", "pipelines"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests" / "unit").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    run(root, "-m", "pipelines.skeleton", "thin_out")
    for block in blocks():
        write_or_add(root, block)
    return root


def test_benchmark(checkout: Path) -> None:
    told = run(checkout, "-m", "pipelines.cli", "tasks", "counting.yaml")
    assert "Answer with a number." in told
    assert "vqa_accuracy" in told
    command = re.search(r"--set '(evaluations\.counting=.*)' \\\n\s*--set '(.+)'", PAGE)
    assert command
    overrides = command[1].replace("/path/to", str(checkout)), command[2].replace("/path/to", str(checkout))
    options = [argument for override in overrides for argument in ("--set", override)]
    run(checkout, "-m", "pipelines.cli", "compile", *options, "-o", str(checkout / "counting-pipeline.yaml"))
    package = next(yaml.load_all((checkout / "counting-pipeline.yaml").read_text(), yaml.CSafeLoader))
    assert "counting" in package["root"]["dag"]["tasks"] or "comp-counting" in package["components"]


def test_kind_and_metric(checkout: Path) -> None:
    (checkout / "verbatim.yaml").write_text(
        "{name: verbatim, version: 1, kind: verbatim, dataset: verbatim.jsonl, max_new_tokens: 8,\n"
        ' prompt: {format: instruct, template: "{question}"}, metrics: [exact_match], headline: exact_match}\n'
    )
    rows = [
        {"id": str(number), "image": f"{number}.png", "question": "What?", "answers": [text]}
        for number, text in enumerate(("a cat", "a dog", "a cat"))
    ]
    (checkout / "verbatim.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = run_code(
        checkout,
        """
        from pathlib import Path
        from components.tasks.kind import Examination
        from components.tasks.loading import load_task
        from components.tasks.registry import find_kind

        task = load_task("verbatim.yaml")
        kind = find_kind(task.kind)
        samples = kind.load(Path("verbatim.jsonl"))
        said = {"none": ["A  CAT", "a cat", "a cat"]}
        statistics = kind.examine(Examination(task, samples, said, raw=Path("."))).statistics
        print(statistics["none"]["exact_match"].value(), statistics["constant"]["exact_match"].value())
        """,
    )
    assert [float(value) for value in found.split()] == pytest.approx([2 / 3, 2 / 3])


def test_stage_and_setting_in_the_ui(checkout: Path) -> None:
    steps = run_code(checkout, "from pipelines.skeleton.writing import next_steps; print(next_steps('thin_out'))")
    lines = [line.strip() for line in steps.splitlines()]
    (row,) = (line for line in lines if line.startswith("Stage("))
    assert row in PAGE
    (line,) = (line for line in lines if line.startswith("from components.thin_out"))
    (field,) = (line for line in lines if line.startswith("thin_out:"))
    (call,) = (line for line in lines if line.startswith("kept = add("))
    replace_once(checkout / "pipelines/config.py", "from components.combine", f"{line}\nfrom components.combine")
    replace_once(
        checkout / "pipelines/config.py", "    combine: CombineConfig\n", f"    combine: CombineConfig\n    {field}\n"
    )
    replace_once(
        checkout / "pipelines/vlm_training.py",
        "            captions = convert_pretrain",
        f"            {call}\n            captions = convert_pretrain",
    )
    run(checkout, "-m", "pipelines.cli", "compile", "-o", str(checkout / "pipeline.yaml"))
    root = next(yaml.load_all((checkout / "pipeline.yaml").read_text(), yaml.CSafeLoader))
    parameters = root["root"]["inputDefinitions"]["parameters"]
    assert parameters["seed"]["description"] == "Seed of pretraining's order and dropout."
    assert parameters["seed"]["parameterType"] == "NUMBER_INTEGER"
    assert "comp-thin-out" in root["components"]


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_source(checkout: Path, tmp_path: Path) -> None:
    run_code(
        checkout,
        f"""
        from pathlib import Path
        import fsspec
        from components.progress import Progress
        from components.storage.config import TransferConfig
        from components.storage.listing import list_source
        from components.storage.transfer import fetch_files
        from components.storage.uri import read_uri

        system = fsspec.filesystem("memory")
        system.pipe({{"/set/captions.json": b"[]", "/set/deep/images.zip": bytes(range(256)) * 9000}})
        listing = list_source(read_uri("memory://set", "data.source"), TransferConfig())
        fetch_files(listing.files, Path({str(tmp_path)!r}), TransferConfig(), Progress("test"))
        """,
    )
    assert (tmp_path / "captions.json").read_bytes() == b"[]"
    assert (tmp_path / "deep" / "images.zip").read_bytes() == bytes(range(256)) * 9000


def test_model_family(checkout: Path, tmp_path: Path) -> None:
    """The stage itself compares its logits with transformers'."""
    found = run_code(
        checkout,
        f"""
        import sys
        from pathlib import Path

        sys.path.append({str(ROOT)!r})
        from components.context import RunContext
        from components.weight_conversion.config import WeightConversionConfig
        from components.weight_conversion.stage import run_weight_conversion
        from tests.support.families import redraw
        from tests.support.model_world import chat_template, finished_weights, tokenizer
        from transformers import SeedOssConfig, SeedOssForCausalLM

        weights = Path({str(tmp_path / "weights")!r})
        config = SeedOssConfig(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
            num_key_value_heads=2, attention_bias=True, rope_parameters={{"rope_type": "default", "rope_theta": 5e6}},
            max_position_embeddings=64,
        )
        model = SeedOssForCausalLM(config)
        redraw(model, seed=1)
        model.save_pretrained(weights / "language")
        tokenizer(weights / "language")
        chat_template(weights / "language")
        finished_weights(weights)
        context = RunContext(run_id="t", run_name="t", workspace=Path({str(tmp_path)!r}))
        settings = WeightConversionConfig(part="language", make_vocab_size_divisible_by=8)
        print(run_weight_conversion(context, settings, weights).manifest.facts["max_logit_difference"])
        """,
    )
    assert float(found.splitlines()[-1]) < 1e-5


def test_layout(checkout: Path) -> None:
    lines = [{"drawing": f"{number}.png", "prompt": f"a cat, {number}"} for number in range(3)]
    (checkout / "drawings.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = run_code(
        checkout,
        """
        from pathlib import Path
        from components.progress import Progress
        from components.sources.config import DatasetSource
        from components.sources.reading import read_rows, row_samples
        from components.sources.recording import look_at
        from components.storage.config import TransferConfig

        source = DatasetSource(uri=Path("drawings.jsonl").absolute().as_uri(), layout="drawings")
        looked = look_at(source, "a test", TransferConfig(), Progress("test"))
        for _, row in read_rows(looked.dataset, looked.folder, 0, looked.dataset.rows):
            (sample,) = row_samples(looked.dataset, row)
            print(looked.dataset.layout, sample.pictures[0], sample.conversation[1]["value"])
        """,
    )
    assert found.splitlines()[-3:] == [f"drawings {number}.png a cat, {number}" for number in range(3)]
