"""Which checkpoints stay."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """What decides over a checkpoint.

    Attributes:
        step: Its step.
        validation_loss: Validation loss at this step, None where it was not measured.
    """

    step: int
    validation_loss: float | None = None


@dataclass(frozen=True)
class Retention:
    """How many checkpoints stay; one that any rule keeps stays.

    Attributes:
        newest: Number of newest ones, to resume from.
        every: Those of every so many steps stay for good; 0 for none.
        best: Number of those with the lowest validation losses that stay for good.
    """

    newest: int
    every: int = 0
    best: int = 0

    def for_good(self, marks: Collection[Mark]) -> list[Mark]:
        """Return the checkpoints that stay when training is finished, by step."""
        best = {mark.step for mark in self.ranked(marks)[: self.best]}
        return sorted(
            (mark for mark in marks if mark.step in best or (self.every and mark.step % self.every == 0)),
            key=lambda mark: mark.step,
        )

    def superseded(self, marks: Collection[Mark]) -> list[Mark]:
        """Return the checkpoints that no rule keeps while training goes on, by step."""
        in_order = sorted(marks, key=lambda mark: mark.step)
        kept = {mark.step for mark in [*self.for_good(marks), *in_order[-self.newest :]]}
        return [mark for mark in in_order if mark.step not in kept]

    @staticmethod
    def ranked(marks: Collection[Mark]) -> Sequence[Mark]:
        """Return those with a validation loss, the lowest first; of equal ones the later is better."""
        measured = [mark for mark in marks if mark.validation_loss is not None]
        return sorted(measured, key=lambda mark: (mark.validation_loss, -mark.step))
