"""What the README tells its reader to type, by section."""

import re
import shlex
import sys

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return the text below a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, flags=re.DOTALL | re.MULTILINE)
    assert found, f"the README has no section {heading!r}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def console_commands(text: str) -> list[str]:
    """Return the commands of console blocks, without prompts and remarks."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines]


def vlm(command: str) -> list[str]:
    """Return a `vlm` command of the README as this environment runs it."""
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/vlm", command
    return [sys.executable, "-m", "pipelines.cli", *arguments]
