"""The Java programs below an installation path with a blank and an umlaut, and in a locale without UTF-8."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from components.metrics import meteor, tokenization
from components.metrics.meteor import Meteor
from components.metrics.tokenization import tokenise
from tests.support.small_meteor import install_meteor


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_meteor_and_tokenizer_work_below_any_path(
    locale: str, java: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "mein Büro" / "pycocoevalcap"
    install_meteor(installed / "meteor", [("zebra", "typewriter")])  # which no other table has
    (installed / "tokenizer").mkdir()
    jar = "tokenizer/stanford-corenlp-3.4.1.jar"
    shutil.copyfile(str(files("pycocoevalcap") / jar), installed / jar)
    for module in (meteor, tokenization):
        monkeypatch.setattr(module, "files", lambda name: installed)
    monkeypatch.setenv("LC_ALL", locale)
    assert tokenise(["Ein Käse."], java) == ["ein käse"]
    with Meteor(java) as program:
        (counts,) = program.counts(["a cat zebra"], [["a cat typewriter"]])
    assert counts[:2].tolist() == [3, 3]
    assert counts[-2:].tolist() == [3, 3]  # the third word is matched by the table below this path alone
