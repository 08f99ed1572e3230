import sys
from pathlib import Path

import pytest

from components.errors import ConfigurationError, StageError
from components.metrics.captioning import CaptionScorer
from components.metrics.spice import check_jars, spice_scores

METEOR_REFERENCES = [["a cat sits on a mat", "there is a cat"], ["two dogs run fast"], ["a red | square ||| here"]]
METEOR_PREDICTIONS = ["a cat is on the mat", "dogs are running", ""]


def test_spice_runs_its_program_and_says_what_is_missing(java: str, tmp_path: Path) -> None:
    """The parser can't be fetched here: the real program starts without it and fails, a stand-in shows what is made of scores."""
    with pytest.raises(
        ConfigurationError, match=r"has no stanford-corenlp-3\.6\.0\.jar and no stanford-corenlp-3\.6\.0-models"
    ):
        check_jars(tmp_path)
    with pytest.raises(StageError, match="SPICE's Java program ended with exit code 1: .*SemgrexPattern"):
        spice_scores(METEOR_PREDICTIONS, METEOR_REFERENCES, java, tmp_path)
    program = tmp_path / "java"
    program.write_text(
        f"""#!{sys.executable}
import json, sys
rows = json.load(open(sys.argv[5]))
assert [list(row) for row in rows] == [["image_id", "test", "refs"]] * 3
scores = [{{"image_id": row["image_id"], "scores": {{"All": {{"f": len(row["test"].split()) / 10}}}}}} for row in rows]
json.dump(scores[::-1], open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""
    )
    program.chmod(0o755)
    with CaptionScorer(METEOR_REFERENCES, ["spice"], str(program), tmp_path) as scorer:
        found = scorer.score(METEOR_PREDICTIONS)
    assert found["spice"].parts[:, 0].tolist() == [0.6, 0.3, 0.0]
    with CaptionScorer(METEOR_REFERENCES, ["spice"], java) as scorer:
        assert scorer.score(METEOR_PREDICTIONS) == {}
