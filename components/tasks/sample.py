"""One sample of a task, whatever its kind."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOutSample:
    """One sample of a task.

    Attributes:
        id: Unique in the dataset.
        image: Name of the picture that is shown, as components/data/image_roots.py finds it.
        prompt: The human turn; empty where the picture alone is shown.
        references: What is true: captions of the picture, or accepted answers to the question.
        question: The question alone; empty where none is asked.
        options: Texts of options A, B, ...; empty where the answer is open.
        answer: The right letter, where there are options.
        category: Group that is scored on its own; empty for none.
        groups: More of them: level ("domain") and group.
        hint: What stands beside the question: a context, the words that were recognised in the picture.
        unit: Samples that are one where a metric counts groups, as one question under all orders of its options; empty for
            those of one picture.
        images: All pictures that the question is about, where there are several; `image` is the first.
        shown: Names of the pictures that are shown, in the order in which they stand in the prompt; empty for `image` alone.
    """

    id: str
    image: str
    prompt: str = ""
    references: tuple[str, ...] = ()
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    category: str = ""
    groups: tuple[tuple[str, str], ...] = ()
    hint: str = ""
    unit: str = ""
    images: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the pictures that are shown."""
        return self.shown or (self.image,)
