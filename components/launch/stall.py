"""Notices a job that gets no further although its processes run: no line, no step for a while."""

import time
from collections.abc import Callable, Mapping, Sequence

from components.launch.evidence import is_stack, rank_of, text_of

STALL_VARIABLE = "VLM_STALL_S"
"""Tells each rank after how many seconds without a step it prints its stacks."""

_SAID_LINES = 2
_STACK_LINES = 8


class StallWatch:
    """Watches one attempt.

    Args:
        limit_s: Seconds without a sign of life; None watches nothing.
        done: Returns how far the job is.
        clock: Returns seconds.
    """

    def __init__(
        self, limit_s: float | None, done: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s = limit_s
        self._done = done
        self._clock = clock
        self._last_done = done()
        self._since = clock()

    def heard(self, line: str) -> None:
        """Take a line of the job's output: a sign of life, unless it is of the stacks of a rank that is stuck."""
        if text_of(line).strip() and not is_stack(line):
            self._since = self._clock()

    def rest(self) -> None:
        """Take note that the job need not get further now: it waits for pods, nodes or a queue."""
        self._since = self._clock()

    def stalled(self) -> str:
        """Return how long the job has got no further, in words, when that is too long; else an empty text."""
        if self._limit_s is None:
            return ""
        if (done := self._done()) != self._last_done:
            self._last_done, self._since = done, self._clock()
        silent_s = self._clock() - self._since
        if silent_s < self._limit_s:
            return ""
        return f"no line and no step for {silent_s:.0f} s (cluster.job.stall_s), after step {self._last_done}"


def where_ranks_stand(outputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what each rank said last, and its stacks where it printed them.

    Args:
        outputs: Name of a node to the last lines of its output, as torchrun wrote them.
    """
    said: dict[str, list[str]] = {}
    stacks: dict[str, list[str]] = {}
    for node, lines in outputs.items():
        for line in lines:
            rank = rank_of(line)
            name = f"rank {rank}" if rank is not None else node
            said.setdefault(name, [])
            text = text_of(line)
            if is_stack(line):
                stack = stacks.setdefault(name, [])
                if text.startswith("Timeout"):
                    stack.clear()  # an older one
                stack.append(text)
            elif text.strip():
                said[name].append(text)
    shown = []
    for name in sorted(said, key=lambda name: (not name.startswith("rank "), len(name), name)):
        shown.append(f"{name} said last: {' | '.join(said[name][-_SAID_LINES:]) or 'nothing'}")
        shown += [f"  {line}" for line in _own_stack(stacks.get(name, []))]
    return shown


def _own_stack(lines: Sequence[str]) -> list[str]:
    """Return the main thread's stack, the innermost frames: faulthandler prints it last."""
    starts = [index for index, line in enumerate(lines) if "hread 0x" in line]
    return [line.strip() for line in lines[starts[-1] + 1 :][:_STACK_LINES]] if starts else []
