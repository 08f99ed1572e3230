"""Answers such as models give and such as only chance gives, drawn from a seed: for comparing scorers."""

import random
from collections.abc import Sequence

OPTIONS = (
    ("red", "dark red", "blue", "green"),
    ("A red bus in front of a church.", "A cat on a sofa.", "A small boat.", "Two dogs in the snow."),
    ("yes", "no"),
    ("1", "12", "120", "none of the above", "0.5"),
    ("A", "B", "C"),
    tuple(
        f"the {name} planet" for name in ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    ),
)
_WORDS = (
    "yes", "Yes", "YES", "no", "No", "NO", "not", "nothing", "none", "a", "an", "the", "The", "two", "ten", "dont", "don't",
    "youre", "it's", "its", "man's", "t-shirt", "black", "Black", "white", "and", "or", "1,000", "1000", "3.14", ".5", "50%",
    "0.5", "$5", "10:30", "cat", "dogs", "U.S.", "e.g.", "is", "answer", "Answer", "Answer:", "answer is", "The answer is",
    "option", "so", "could be", "=", "x", "Z", "I", "because", "Because", "DNA", "café", "Käse", "猫", "答案", "I'm sorry, but",
    "unanswerable", "1e3", "-2", "1_000", "nan", "½", "two-thirds",
)  # fmt: skip
_FRAMES = (
    "{}",
    "({})",
    "{}.",
    "{})",
    "{}:",
    "[{}]",
    "**{}**",
    "'{}'",
    "{},",
    "{};",
    "{}!",
    "{}?",
    " {} ",
    "{}\n",
    "The answer is {}.",
)
_JOINTS = (" ", " ", " ", ", ", "\n", ". ", " or ", "", "-", "/", "  ", "\t")


def random_answer(generator: random.Random, options: Sequence[str] = ()) -> str:
    """Return one answer.

    Args:
        generator: Decides.
        options: Texts of the question's options.
    """
    parts = [_part(generator, options) for _ in range(generator.choice((0, 1, 1, 1, 2, 2, 3, 5, 9)))]
    text = "".join(part + generator.choice(_JOINTS) for part in parts[:-1]) + "".join(parts[-1:])
    if generator.random() < 0.03:
        text *= generator.choice((2, 5, 40))
    return text


def _part(generator: random.Random, options: Sequence[str]) -> str:
    what = generator.random()
    if options and what < 0.35:
        word = generator.choice("ABCDEFGHIJ"[: len(options) + 1])
    elif options and what < 0.5:
        word = generator.choice(options)
        word = generator.choice((word, word.lower(), word.upper(), word[:-1]))
    elif what < 0.9:
        word = generator.choice(_WORDS)
    else:
        word = "".join(generator.choice("abcABC 012.,'-!?é") for _ in range(generator.randrange(8)))
    return generator.choice(_FRAMES).format(word) if generator.random() < 0.4 else word
