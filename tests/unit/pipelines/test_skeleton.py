"""`make stage`: the skeleton of a new stage works as it is, and bad names write nothing."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ConfigurationError
from pipelines.skeleton.writing import next_steps, write_skeleton
from tests.support.paths import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small tree with the two places that a stage has, and a stage."""
    root = tmp_path / "checkout"
    (root / "components" / "combine").mkdir(parents=True)
    (root / "components" / "errors.py").touch()
    (root / "tests" / "unit" / "launch").mkdir(parents=True)
    return root


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_files_are_where_a_stage_has_them(checkout: Path) -> None:
    before = files(checkout)
    written = write_skeleton(checkout, "thin_out")
    room = [
        f"components/thin_out/{name}" for name in ("README.md", "__init__.py", "component.py", "config.py", "stage.py")
    ]
    expected = [*room, "tests/unit/thin_out/__init__.py", "tests/unit/thin_out/test_stage.py"]
    assert sorted(str(path.relative_to(checkout)) for path in written) == expected
    assert files(checkout) == sorted([*before, *expected])


@given(st.from_regex(r"[a-z][a-z0-9]{0,30}(_[a-z0-9]{1,20}){0,3}", fullmatch=True))
def test_next_steps_name_the_stage_in_valid_code(name: str) -> None:
    steps = next_steps(name)
    (row,) = (line.strip() for line in steps.splitlines() if line.strip().startswith("Stage("))
    call = ast.parse(row.removesuffix(","), mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.literal_eval(call.args[1]) == f"components.{name}.component:{name}"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "needs a name"),
        ("Thin", "can't be a stage's name"),
        ("thin-out", "can't be a stage's name"),
        ("thin out", "can't be a stage's name"),
        ("thin__out", "can't be a stage's name"),
        ("2nd", "can't be a stage's name"),
        ("../thin", "can't be a stage's name"),
        ("import", "can't be a stage's name"),
        ("dünn", "can't be a stage's name"),
        ("combine", "is taken: components/combine exists"),
        ("errors", "is taken: components/errors.py exists"),
        ("launch", "is taken: tests/unit/launch exists"),
    ],
)
def test_bad_names_are_refused_and_write_nothing(checkout: Path, name: str, complaint: str) -> None:
    before = files(checkout)
    with pytest.raises(ConfigurationError, match=complaint):
        write_skeleton(checkout, name)
    assert files(checkout) == before


def test_a_failure_leaves_nothing_behind(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def full_disk(path: Path, target: Path) -> Path:
        if "tests" in target.parts:
            raise OSError("No space left on device")
        return rename(path, target)

    before = sorted(checkout.rglob("*"))
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_skeleton(checkout, "thin_out")
    assert sorted(checkout.rglob("*")) == before


class Copy:
    """A copy of the checkout, and programs that run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("components", "pipelines", "tests/support"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/unit/__init__.py"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, root / file)

    def python(self, *arguments: str) -> str:
        """Run a module and return what it printed."""
        # mypy knows the libraries from its run on the checkout.
        environment = {**os.environ, "PYTHONPATH": str(self.root), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def insert_after(self, file: str, line: str, new: str) -> None:
        """Add a line, as far in as the one that it follows."""
        path = self.root / file
        text = path.read_text()
        (found,) = (candidate for candidate in text.splitlines() if candidate.strip() == line)
        indent = found[: len(found) - len(found.lstrip())]
        path.write_text(text.replace(f"{found}\n", f"{found}\n{indent}{new}\n"))


@pytest.mark.slow
def test_skeleton_passes_its_test_and_the_checks_and_its_next_steps_put_it_into_the_dag(tmp_path: Path) -> None:
    """In a copy of the checkout, by the programs that `make stage` and `make test` run."""
    copy = Copy(tmp_path)
    output = copy.python("pipelines.skeleton", "thin_out")
    assert output.endswith(f"{next_steps('thin_out')}\n")
    room, tests = "components/thin_out", "tests/unit/thin_out"
    assert " passed" in copy.python("pytest", "-q", tests)
    copy.python("ruff", "check", room, tests)
    copy.python("ruff", "format", "--check", room, tests)
    copy.python("mypy", room)

    indented = [line.strip() for line in output.splitlines() if line.startswith("   ")]
    importing, section, row, call = indented
    copy.insert_after("pipelines/config.py", "from components.report.config import ReportConfig", importing)
    copy.insert_after(
        "pipelines/config.py", "registry: Where a model that passes its gates is registered.", "thin_out: Less."
    )
    copy.insert_after("pipelines/config.py", "registry: RegistryConfig = RegistryConfig()", section)
    copy.insert_after(
        "pipelines/stages.py", 'Stage("open_run", "pipelines.open_run:open_run", place=Place.BOOKS),', row
    )
    copy.insert_after("pipelines/vlm_training.py", 'raw = add("download/dataset").outputs["raw"]', call)
    copy.python("pipelines.cli", "compile", "--set", "thin_out.limit=7", "--output", "package.yaml")
    assert "thin-out" in (tmp_path / "package.yaml").read_text()
    assert "thin_out" in copy.python("pipelines.cli", "settings", "thin_out.limit", "--preset", "laptop")
