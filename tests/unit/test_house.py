"""The house's floors: a room knows what stands below it, nothing beside it and nothing above it."""

from pathlib import Path

import pytest

from tests.support.imports import Import, circles, graph, imports_below, module_name, modules_named_in_texts
from tests.support.paths import ROOT

FLOORS = [
    {"storage", "tracking", "data", "metrics", "pages"},
    {"stage", "tasks", "sources"},
    {"model", "launch", "runs"},
    {"training"},
]
"""The shared rooms, the lowest floor first. Below them is the ground floor, the modules that lie in `components/` itself; above them
are the stages, which may use one another as long as they don't do so in a circle; at the top is `pipelines/`.
"""


GROUND = ""
STAGES = len(FLOORS) + 1


def floor_of(room: str) -> int:
    """Return a room's floor, 0 for the ground floor and the highest for stages."""
    if room == GROUND:
        return 0
    return next((number for number, rooms in enumerate(FLOORS, start=1) if room in rooms), STAGES)


def room_of(module: str, root: Path) -> str:
    """Return the room of `components.<room>.<module>`, or of a name in it; the ground floor's is empty."""
    name = module.split(".")[1] if "." in module else GROUND
    return name if name and (root / "components" / name).is_dir() else GROUND


def misplaced(root: Path) -> list[str]:
    """Return the imports of `components/` that go up or sideways, in words."""
    found = imports_below(root, "components")
    for path in sorted((root / "components").rglob("*.py")):
        module = module_name(path.relative_to(root))
        if floor_of(room_of(module, root)) < STAGES:
            found += modules_named_in_texts(path, module, "components")
    return [f"{item.importer}, line {item.line}: {item.imported}" for item in found if not _stands_below(item, root)]


def _stands_below(item: Import, root: Path) -> bool:
    package = item.imported.split(".")[0]
    if package in ("pipelines", "tests"):
        return False
    if package != "components":
        return True
    room, other = room_of(item.importer, root), room_of(item.imported, root)
    if room == other:
        return True
    return floor_of(other) < floor_of(room) or floor_of(room) == floor_of(other) == STAGES


def file_circles(root: Path, *packages: str) -> list[list[str]]:
    """Return the circles of imports among the modules of packages."""
    modules = [module_name(path.relative_to(root)) for name in packages for path in (root / name).rglob("*.py")]
    return circles(graph(imports_below(root, *packages), modules))


def room_circles(root: Path) -> list[list[str]]:
    """Return the circles of imports among the rooms of `components/`."""
    edges: dict[str, set[str]] = {}
    for item in imports_below(root, "components"):
        if item.imported.startswith("components."):
            room, other = room_of(item.importer, root), room_of(item.imported, root)
            if room != other:
                edges.setdefault(room, set()).add(other)
    return circles(edges)


def test_every_room_of_the_list_exists() -> None:
    rooms = {path.name for path in (ROOT / "components").iterdir() if path.is_dir()}
    assert {room for floor in FLOORS for room in floor} <= rooms


def test_rooms_know_what_stands_below_them_alone() -> None:
    assert not misplaced(ROOT), "a shared room that is not in FLOORS counts as a stage"


def test_no_circle_among_files() -> None:
    assert not file_circles(ROOT, "components", "pipelines", "tests")


def test_no_circle_among_rooms() -> None:
    assert not room_circles(ROOT)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A house in order."""
    files = {
        "components/errors.py": "import os\n",
        "components/storage/disk.py": "from components import errors\n",
        "components/stage/run.py": "from components.storage.disk import write\n",
        "components/combine/join.py": "from components.stage import run\nfrom components.download.dataset import read\n",
        "components/download/dataset.py": "from components.storage import disk\n",
        "pipelines/dag.py": "import components.combine.join\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert not misplaced(tmp_path)
    assert not file_circles(tmp_path, "components", "pipelines")
    assert not room_circles(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("components/errors.py", "from components.storage import disk"),
        ("components/storage/disk.py", "def later():\n    import components.stage.run"),
        ("components/storage/disk.py", "from components.data import loader"),
        ("components/stage/run.py", "from components.combine.join import join"),
        ("components/stage/run.py", 'MODULE = "components.combine.join"'),
        ("components/combine/join.py", "from pipelines import dag"),
        ("components/combine/join.py", "from ...pipelines import dag"),
    ],
)
def test_import_up_or_sideways_is_found(house: Path, name: str, line: str) -> None:
    (house / "components/data").mkdir()
    (house / "components/data/loader.py").write_text("")
    (house / name).write_text(line + "\n")
    assert len(misplaced(house)) == 1


def test_circles_are_found(house: Path) -> None:
    (house / "components/download/dataset.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from components.combine.join import Join\n"
    )
    (found,) = file_circles(house, "components", "pipelines")
    assert set(found) == {"components.combine.join", "components.download.dataset"}
    assert [set(circle) for circle in room_circles(house)] == [{"combine", "download"}]
