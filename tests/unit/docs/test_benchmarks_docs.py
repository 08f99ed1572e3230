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
    compared = TEXT.partition("## What the scorers")[2].partition("## What was read")[0]
    named = set(re.findall(r", ([0-9a-f]{7})\b", compared))
    assert named == {commit[:7] for commit in commits.values()}


def test_what_was_read_from_real_files_is_of_tasks_with_published_data() -> None:
    read = TEXT.partition("## What was read")[2].partition("Not seen as files")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in read.splitlines() if row.startswith("| ")]
    assert {len(row) for row in rows} == {7}
    figures = [(float(row[5]), float(row[6])) for row in rows[1:] if row[5]]
    assert len(figures) == 10
    assert all(abs(published - here) < 0.5 for published, here in figures)


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
