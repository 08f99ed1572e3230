"""What a generation need not do again, as its launcher counts it."""

from pathlib import Path

from components.generate.job_progress import GenerationProgress
from components.generate.journal import Journal


def test_whole_batches_of_all_ranks_count(tmp_path: Path) -> None:
    progress = GenerationProgress(tmp_path / "answers")
    assert (progress.saved(), progress.done(), progress.finished()) == (0, 0, False)
    for rank in range(2):
        with Journal(tmp_path / "answers", rank) as journal:
            for batch in range(rank + 1):
                journal.append(2 * batch + rank, [[1, 2]])
    with open(tmp_path / "answers" / "rank_0000.jsonl", "ab") as stream:
        stream.write(b'{"batch": 4, "answers": [[')  # killed in the middle of a line
    assert (progress.saved(), progress.done()) == (3, 3)
