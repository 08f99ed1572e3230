"""Progress of a stage: what the log's lines say is what they were written from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.progress import Progress, last_reported

WORDS = st.from_regex(r"[a-z]+( [a-z]+){0,2}", fullmatch=True)
STAGES = st.sampled_from(["pretrain", "download/weights", "generate/sft-captioning", "wds_conversion/sft/parts"])


@given(STAGES, WORDS, WORDS, st.integers(1, 10**7), st.booleans(), st.dictionaries(WORDS, st.floats(0.01, 1e6)))
def test_a_line_tells_what_was_reported(
    stage: str, activity: str, unit: str, done: int, counted: bool, fields: dict[str, float]
) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda line, flush: lines.append(line))
        progress = Progress(stage)
        progress.start(activity, done if counted else None, unit)
        progress._last_line -= 60  # a line is due
        progress.update(done, **fields)
    reported = last_reported(
        stage.removesuffix("/parts"), ["before", *lines, "WARNING: something else 3/4 of it, 2/s ago"]
    )
    assert reported is not None
    assert (reported.activity, reported.unit, reported.done) == (activity, unit, done)
    assert reported.total == (done if counted else None)
    assert reported.rate > 0
    assert reported.left_s is None
    assert reported.fields == tuple((name, f"{value:.4g}") for name, value in fields.items())


@pytest.mark.parametrize("total", [0, 3])
def test_the_whole_is_told_once(total: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model, many small weights come after its last whole megabyte."""
    progress = Progress("combine")
    progress.start("combining", total, "MB")
    for done in [*range(total), *[total] * 5]:
        progress.update(done)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"combine: combining {total}/{total} MB")


def test_the_last_line_of_the_stage_counts() -> None:
    log = [
        "sft: reading 10/90 files, 2/s, 40 s left",
        "[rank 0] sft: training 12/400 steps, 1.5/s, 259 s left, loss 3.25, MB/s 12",
        "generate/captioning: answering 7 samples, 3.1/s",
    ]
    reported = last_reported("sft", log)
    assert reported is not None
    assert (reported.activity, reported.done, reported.total) == ("training", 12, 400)
    assert (reported.rate, reported.left_s) == (1.5, 259)
    assert reported.fields == (("loss", "3.25"), ("MB/s", "12"))
    assert last_reported("pretrain", log) is None
