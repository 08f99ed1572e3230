"""docs/cluster.md: its commands parse, its settings exist, and what it quotes is what is said."""

import re
import shlex

import pytest

from pipelines.cli.parser import build_parser
from pipelines.cluster_run import _check
from pipelines.preset_files import load_preset
from pipelines.setting_keys import key_exists
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE)
SETTINGS = r"`((?:cluster|pretrain\.launch|sft\.launch)\.[\w.]+)(?:=[^`]*)?`"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("vlm ")])
def test_command_parses_and_its_settings_are_valid(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://localhost:8080")
    options = build_parser().parse_args(shlex.split(command.partition(" | ")[0], comments=True)[1:])
    if hasattr(options, "preset"):
        _check(load_preset(options.preset, options.overrides))


def test_files_that_are_named_exist() -> None:
    paths = re.findall(r"apply -[kf] (\w\S*)", TEXT) + re.findall(r"\(\.\./([^)]+)\)", TEXT)
    assert len(paths) >= 4
    for path in paths:
        assert (ROOT / path).exists(), path


def test_settings_that_are_named_exist() -> None:
    names = set(re.findall(SETTINGS, TEXT))
    assert len(names) > 12
    for name in names:
        assert key_exists(name), name


def test_quoted_messages_are_in_the_code() -> None:
    code = "".join(
        path.read_text(encoding="utf-8") for room in ("components", "pipelines") for path in (ROOT / room).rglob("*.py")
    )
    table = TEXT.partition("## When it fails")[2]
    quotes = [
        quote for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for quote in re.findall(r"`([^`]+)`", row)
    ]
    assert len(quotes) > 12
    spoken_by_kubernetes = {
        "Unschedulable",
        "exceeded quota",
        "violates PodSecurity",
        "must specify limits.memory",
        "persistentvolumeclaim",
        "not found",
        "no such host",
        "manifest unknown",
        "failed to pull and unpack image",
        "No writable volumes",
        "no endpoints available",
    }
    composed = {"ended with signal 9": 'f"signal {', "ended with exit code 75": 'f"exit code {'}
    for quote in quotes:
        assert composed.get(quote, quote) in code or quote in spoken_by_kubernetes, quote
