"""The guides: their links lead somewhere, their picture shows the house as it is, their commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.cli.parser import build_parser
from tests.support.paths import ROOT
from tests.unit.test_house import FLOORS

GUIDES = sorted(
    path for path in (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")) if path.is_file()
) + sorted((ROOT / "docs").rglob("*.md"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_exist(guide: Path) -> None:
    text = re.sub(r"```.*?```", "", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", text)
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}
    for link in links:
        path, _, place = link.partition("#")
        if path:
            assert (guide.parent / path).exists(), link
        else:
            assert place in anchors, link


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_picture_shows_the_floors_as_they_are() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", read("docs/architecture.md"), flags=re.DOTALL)
    floors = [
        set(re.findall(r"<b>(\w+)</b>", floor))
        for floor in re.findall(r"subgraph (?:.*?)\n    end", picture, flags=re.DOTALL)
    ]
    assert [floor for floor in floors if floor] == FLOORS
    stages = {name for line in re.findall(r's\d\["(.*?)"\]', picture) for name in line.split(", ")}
    rooms = {path.parent.name for path in (ROOT / "components").glob("*/__init__.py")}
    assert stages == rooms - set().union(*FLOORS)


def test_every_decision_is_listed() -> None:
    records = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    listed = re.findall(r"\((\d{4}-.*?\.md)\)", read("docs/decisions/README.md"))
    assert records == listed
    for name in records:
        text = read(f"docs/decisions/{name}")
        assert text.startswith(f"# {int(name[:4])}. ")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d$", text, flags=re.MULTILINE), name


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/extending.md"])
def test_make_targets_exist(name: str) -> None:
    makefile = read("Makefile")
    targets = re.findall(r"^\$ make ([\w-]+)|`make ([\w-]+)", read(name), flags=re.MULTILINE)
    assert targets
    for target in (first or second for first, second in targets):
        assert re.search(rf"^[\w %-]*\b{target}\b[\w %-]*:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("name", ["docs/extending.md"])
def test_vlm_commands_are_understood(name: str) -> None:
    blocks = "".join(re.findall(r"```console\n(.*?)```", read(name), flags=re.DOTALL)).replace("\\\n", " ")
    commands = re.findall(r"^\$ (?:\.venv/bin/)?vlm (.*)$", blocks, flags=re.MULTILINE)
    assert commands
    for command in commands:
        assert build_parser().parse_args(shlex.split(command))
