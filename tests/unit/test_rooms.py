"""Who may import whom: no circle between files, and components/ knows nothing of pipelines/."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, Path]:
    found = [path for room in ("components", "pipelines") for path in (ROOT / room).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in found}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a file imports: anywhere, in functions and for types, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in known and known[name].name != "__init__.py"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(path, known) for name, path in known.items()}


def test_no_circle_of_imports(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_components_know_nothing_of_pipelines(graph: dict[str, set[str]]) -> None:
    below = {name: found for name, found in graph.items() if name.startswith("components.")}
    assert {
        name: found for name, found in below.items() if any(other.startswith("pipelines.") for other in found)
    } == {}
    assert len(below) > 100


def test_pages_know_no_other_room(graph: dict[str, set[str]]) -> None:
    pages = {name: found for name, found in graph.items() if name.startswith("components.pages.")}
    assert len(pages) >= 5
    assert {other for found in pages.values() for other in found if not other.startswith("components.pages.")} == set()
