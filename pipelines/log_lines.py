"""Lines of logs as people read them: those of one task, of one rank, without KFP's own dumps."""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

_BEGINS = re.compile(r"INFO - Executing task \S*?'([^']+)'")
_ENDS = re.compile(r"INFO - Task \S*?'([^']+)'\S* finished with status")
_INDENT = "    "  # of what a task prints, in the log of KFP's local runner
_DUMP = "INFO]: Got executor_input:"
_POLL_S = 0.5


def file_lines(path: Path, goes_on: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines of a log, and those that come, as long as it goes on.

    Args:
        path: The file.
        goes_on: Whether more may come; it is asked before the end of the file is looked for.
    """
    with open(path, encoding="utf-8", errors="replace") as stream:
        rest = ""
        while True:
            more = goes_on()
            for piece in stream:
                rest += piece
                if rest.endswith("\n"):
                    yield rest[:-1]
                    rest = ""
            if not more:
                break
            time.sleep(_POLL_S)
        if rest:
            yield rest


def lines_of_tasks(lines: Iterable[str], names: Collection[str]) -> Iterator[str]:
    """Yield what tasks printed into the log of KFP's local runner; what ran side by side with them is in between.

    Args:
        lines: The log.
        names: The tasks, as the runner calls them: their components, as "energon-split-2".
    """
    running = 0
    for line in lines:
        if (begins := _BEGINS.search(line)) and begins[1] in names:
            running += 1
        elif (ends := _ENDS.search(line)) and ends[1] in names:
            running -= 1
        elif running and line.startswith(_INDENT):
            yield line.removeprefix(_INDENT)


def readable(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without the hundreds in which KFP tells each task its inputs."""
    indent: str | None = None
    for line in lines:
        if indent is not None:
            if line == f"{indent}}}":
                indent = None
        elif _DUMP in line:
            indent = line[: len(line) - len(line.lstrip())]
        else:
            yield line


def lines_of_rank(lines: Iterable[str], rank: int) -> Iterator[str]:
    """Yield what a rank of a training printed, without its mark."""
    mark = f"[rank {rank}] "
    for line in lines:
        if line.lstrip().startswith(mark):
            yield line.lstrip().removeprefix(mark)
