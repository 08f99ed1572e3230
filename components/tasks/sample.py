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
        images: All pictures that the question is about, where there are several. Only `image` is shown.
    """

    id: str
    image: str
    prompt: str = ""
    references: tuple[str, ...] = ()
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    category: str = ""
    images: tuple[str, ...] = ()
