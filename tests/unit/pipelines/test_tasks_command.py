"""`vlm tasks`: the benchmark tasks, and one with what a model reads."""

import json
from pathlib import Path

import pytest
import yaml

from components.tasks.loading import BENCHMARKS_FOLDER, load_samples, load_task, task_names
from pipelines.cli import main

Captured = pytest.CaptureFixture[str]


def test_every_task_is_listed_with_what_its_file_says(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["tasks"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    blocks = {block.split()[0]: " ".join(block.split()) for block in _blocks(output)}
    assert sorted(blocks) == sorted(path.stem for path in BENCHMARKS_FOLDER.glob("*.yaml"))
    for name, block in blocks.items():
        content = yaml.safe_load((BENCHMARKS_FOLDER / f"{name}.yaml").read_text())
        assert f"version {content['version']} kind {content['kind']} " in block
        assert f"metrics {content['headline']} (headline)" in block
        assert all(metric in block for metric in content["metrics"])
        assert f"data {content['dataset']}: " in block
        asked = " ".join(content["prompt"].get("template", "the picture alone").split())
        assert f"prompt {asked}" in block


def test_a_task_is_shown_as_every_model_is_asked_it(tmp_path: Path, capsys: Captured) -> None:
    question = {"question": "What is left of the red circle?", "image": "a.jpg"}
    options = ["a blue square", "a green star", "nothing"]
    lines = [{"id": 1, **question, "options": options, "answer": "A"}, {"id": 2, **question, "answers": ["a square"]}]
    (tmp_path / "mmmu.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["tasks", "mmmu"]) == 0
    output = capsys.readouterr().out
    for sample in load_samples(tmp_path, load_task("mmmu")):
        assert f"\n<image>{sample.prompt}\n" in output
    assert "chat template" in " ".join(output.split())
    assert "[INST]" not in output


def test_plain_task_shows_the_picture_alone(capsys: Captured) -> None:
    assert main(["tasks", "captioning"]) == 0
    assert "for any picture\n<image>\n" in capsys.readouterr().out


def test_programs_get_json(capsys: Captured) -> None:
    assert main(["tasks", "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in tasks] == task_names()
    assert all(task["ground_truth"] and task["examples"] for task in tasks)


def test_a_file_can_be_shown_and_a_wrong_name_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((BENCHMARKS_FOLDER / "vqav2.yaml").read_text().replace("name: vqav2", "name: mine"))
    assert main(["tasks", str(path)]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["tasks", "vqa2"]) == 1
    assert "Known are" in capsys.readouterr().err


def _blocks(output: str) -> list[str]:
    """Take the list apart where a task's name starts a line."""
    starts = [number for number, line in enumerate(output.splitlines()) if ", version " in line]
    lines = output.splitlines()
    return ["\n".join(lines[start:end]) for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
