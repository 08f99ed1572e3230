"""docs/benchmarks.md: every benchmark is there, with the commits of the programs that were compared; its command works."""

import json
import re
import shlex

from components.tasks.loading import load_task, task_names
from pipelines.preset_files import load_preset
from tests.benchmarks.official_scorers import RECORDED
from tests.support.adversarial_answers import LETTERS, YES_NO
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_every_published_benchmark_is_listed_and_nothing_else() -> None:
    table = TEXT.partition("## What is asked")[2].partition("## What the scorers")[0]
    listed = set(
        re.findall(r"`(\w+)`", "".join(row.split("|")[2] for row in table.splitlines() if row.startswith("| ")))
    )
    assert listed == {name for name in task_names() if load_task(name).origin.data}


def test_the_programs_are_those_that_were_recorded() -> None:
    commits = json.loads(RECORDED.read_text())["commits"]
    named = set(re.findall(r", ([0-9a-f]{7})\b", TEXT))
    assert named == {commit[:7] for commit in commits.values()}


def test_counts_of_hard_answers_are_right() -> None:
    assert f"Of the {len(YES_NO)} hard answers" in TEXT
    assert f"The {len(LETTERS)} answers it is tested with" in TEXT


def test_its_command_sets_what_exists() -> None:
    (command,) = re.findall(r"^\$ (vlm run(?:.*\\\n)*.*)$", TEXT, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert "pope" in load_preset("laptop", overrides).evaluations


def test_files_that_are_named_exist() -> None:
    paths = re.findall(r"\]\(\.\./([^)]+)\)", TEXT)
    assert len(paths) >= 4
    for path in paths:
        assert (ROOT / path).exists(), path
