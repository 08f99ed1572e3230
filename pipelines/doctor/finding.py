"""What an examination finds, and how it is shown: one table for machines and for clusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rich.console import Console

_SUBJECT_WIDTH = 20


class Mark(Enum):
    """How a finding is to be taken."""

    GOOD = "✓"
    BAD = "✗"
    FACT = "·"  # nothing that is asked for depends on it
    UNKNOWN = "?"  # it could not be looked at, which is not the same as good

    @classmethod
    def needed(cls, good: bool) -> "Mark":
        """Return the mark of something that must be good."""
        return cls.GOOD if good else cls.BAD


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        subject: What was looked at.
        mark: How it is to be taken.
        found: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    subject: str
    mark: Mark
    found: str
    advice: str = ""


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the table."""
    width = max([_SUBJECT_WIDTH, *(len(finding.subject) for finding in findings)])
    for finding in findings:
        text = f"{finding.found}: {finding.advice}" if finding.advice else finding.found
        line = f"{finding.mark.value} {finding.subject:<{width}} {text}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def marked(findings: Sequence[Finding], mark: Mark) -> list[str]:
    """Return the subjects of the findings with a mark, each once."""
    return list(dict.fromkeys(finding.subject for finding in findings if finding.mark is mark))
