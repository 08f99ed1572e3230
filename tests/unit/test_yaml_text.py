"""YAML by libyaml: the same values and errors as PyYAML's own parser gives."""

import pytest
import yaml

from components.tasks.loading import BENCHMARKS_FOLDER
from components.yaml_text import parse_documents, parse_yaml
from tests.support.paths import ROOT

TEXTS = [
    "",
    "a",
    "1e-4",
    "[1, 0x10, 010, 1.5, yes, ~]",
    "a: &x {b: 'é 🙂'}\nc: *x",
    "when: 2026-01-02",
    "- |\n  two\n  lines\n",
]
FILES = [*(ROOT / "pipelines" / "presets").glob("*.yaml"), *BENCHMARKS_FOLDER.glob("*.yaml")]


@pytest.mark.parametrize("text", TEXTS)
def test_values_are_those_of_the_other_parser(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)
    twice = f"{text}\n---\n{text}\n"
    assert parse_documents(twice) == list(yaml.safe_load_all(twice))


def test_our_own_files_read_the_same() -> None:
    assert FILES
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert parse_yaml(text) == yaml.safe_load(text), path


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "!!python/object/apply:os.getcwd []"])
def test_errors_quote_the_line(text: str) -> None:
    with pytest.raises(yaml.YAMLError) as refused:
        parse_yaml(text)
    assert text in str(refused.value)
