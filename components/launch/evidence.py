"""What is known of an attempt that failed, and what its ranks' lines say: the same for this machine and a cluster."""

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN_LINES = 20
_LONGEST_MESSAGE = 400
_ROOT_CAUSE = re.compile(r"Root Cause \(first observed failure\):")
_RANK = re.compile(r"rank\s*:\s*(\d+)")
_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")
_TIME = re.compile(r"time\s*:\s*(\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d)")
_TIME_FORMAT = "%Y-%m-%d_%H:%M:%S"
_RANK_LINE = re.compile(r"^\[rank (\d+)\] ?(.*)$")
_TORCH_PREFIX = re.compile(r"^\[rank\d+\]: ?")  # what torch puts before an uncaught exception's lines
_ACCOUNT_LINES = 10
# Python's faulthandler: what a rank says of its own stacks is no sign of life.
_STACK = re.compile(r"^(Timeout \(\d|(Current t|T)hread 0x|  File \")")


@dataclass(frozen=True)
class Evidence:
    """What is known of an attempt that failed.

    Attributes:
        code: Exit code of the rank that failed first; below 0 for a signal, 0 where no rank is known to have failed.
        lines: That rank's last lines, from its last error on; of all ranks where it is not known.
        container: The kubelet's reason of the container's end ("OOMKilled").
        lost: How the cluster took the pod away; empty if it did not.
        operator: The operator's reason and message.
        stalled: How long nothing was heard, in words; empty where the attempt ended by itself.
        image: What the cluster says of an image that it can't get.
        refused: What the cluster says of pods or objects that it will never make.
    """

    code: int = 0
    lines: Sequence[str] = ()
    container: str = ""
    lost: str = ""
    operator: str = ""
    stalled: str = ""
    image: str = ""
    refused: str = ""

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)

    @property
    def ended(self) -> str:
        """How the rank ended, in words."""
        return f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code}"


@dataclass(frozen=True)
class FirstFailure:
    """Torchrun's own account of what failed first on its node; None for what it does not say.

    Attributes:
        rank: The rank.
        code: Its exit code; below 0 for a signal.
        when: When it ended, by the node's clock, to the second.
    """

    rank: int | None = None
    code: int | None = None
    when: datetime.datetime | None = None


def first_failure(lines: Sequence[str]) -> FirstFailure:
    """Return torchrun's account of what failed first, which it writes at its end."""
    starts = [index for index, line in enumerate(lines) if _ROOT_CAUSE.search(line)]
    if not starts:
        return FirstFailure()
    account = "\n".join(lines[starts[-1] : starts[-1] + _ACCOUNT_LINES])
    rank, code, when = _RANK.search(account), _EXIT_CODE.search(account), _TIME.search(account)
    return FirstFailure(
        int(rank.group(1)) if rank else None,
        int(code.group(1)) if code else None,
        datetime.datetime.strptime(when.group(1), _TIME_FORMAT).replace(tzinfo=datetime.UTC) if when else None,
    )


def last_speaker(lines: Sequence[str]) -> int | None:
    """Return the rank that said the last line."""
    return next((rank for line in reversed(lines) if (rank := rank_of(line)) is not None), None)


def last_lines(lines: Iterable[str], rank: int | None) -> list[str]:
    """Return a rank's last lines, from its last error on; the whole pod's when the rank is not known."""
    own = [text_of(line) for line in lines if rank is None or rank_of(line) == rank]
    own = [line for line in own if line.strip()]
    errors = [index for index, line in enumerate(own) if line.startswith(("ERROR: ", "Traceback"))]
    return (own[errors[-1] :] if errors else own)[-_SHOWN_LINES:]


def rank_of(line: str) -> int | None:
    """Return the rank that said a line; None for torchrun's own."""
    match = _RANK_LINE.match(line)
    return int(match.group(1)) if match else None


def ranks_with_errors(lines: Iterable[str]) -> list[int]:
    """Return the ranks that ended with an error of ours, in the order of their words."""
    ranks = [rank_of(line) for line in lines if text_of(line).startswith("ERROR: ")]
    return list(dict.fromkeys(rank for rank in ranks if rank is not None))


def text_of(line: str) -> str:
    """Return a line without what torchrun and torch put before it."""
    match = _RANK_LINE.match(line)
    return _TORCH_PREFIX.sub("", match.group(2)) if match else line


def is_stack(line: str) -> bool:
    """Tell whether a line is part of the stacks that a rank prints when it gets no further."""
    return bool(_STACK.match(text_of(line)))


def shortened(text: str) -> str:
    """Return a message of the cluster that a line can hold: they repeat whole objects."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]} ..."
