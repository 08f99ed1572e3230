"""Answers that are hard to read, each with its right reading: letters in words, denials, numbers with units, other languages,
refusals, repeated text, empty ones, pages."""

from dataclasses import dataclass

_CAPTIONS = ("A red bus in front of a church.", "A cat on a sofa.", "A small boat.", "Two dogs in the snow.")
_COLOURS = ("red", "green", "blue", "dark blue")
_NUMBERS = ("1", "12", "120", "1,200")
_NAMES = ("Vitamin A", "Vitamin B", "Vitamin C", "None of the above")

QUESTION_OPTIONS = {"captions": _CAPTIONS, "colours": _COLOURS, "numbers": _NUMBERS, "names": _NAMES}

LETTERS: tuple[tuple[str, str, str | None], ...] = (
    # Text, options, the letter that a person reads.
    ("B", "captions", "B"), ("(B)", "captions", "B"), ("B.", "captions", "B"), ("b", "captions", "B"),
    ("(b)", "captions", "B"), ("B)", "captions", "B"), ("B:", "captions", "B"), ("**B**", "captions", "B"),
    ("[B]", "captions", "B"), ("{B}", "captions", "B"), ("  B  ", "captions", "B"), ("\nB\n", "captions", "B"),
    ("'B'", "captions", "B"), ('"B"', "captions", "B"), ("`B`", "captions", "B"), ("<B>", "captions", "B"),
    ("B,", "captions", "B"), ("B;", "captions", "B"), ("-B-", "captions", "B"), ("B!!!", "captions", "B"),
    ("Answer: B", "captions", "B"), ("answer: B", "captions", "B"), ("ANSWER: B", "captions", "B"),
    ("The answer is (B).", "captions", "B"), ("The answer is B.", "captions", "B"), ("The answer is B", "captions", "B"),
    ("The correct answer is: B", "captions", "B"), ("The correct answer is **B**.", "captions", "B"),
    ("The best option is B", "captions", "B"), ("Option B", "captions", "B"), ("Option B.", "captions", "B"),
    ("I choose option B", "captions", "B"), ("My answer is B because a cat lies there.", "captions", "B"),
    ("\\boxed{B}", "captions", "B"), ("So the answer is \\boxed{B}.", "captions", "B"), ("$\\boxed{D}$", "captions", "D"),
    ("B. A cat on a sofa.", "captions", "B"), ("(B) A cat on a sofa.", "captions", "B"),
    ("B) A cat on a sofa.", "captions", "B"),
    ("B: A cat on a sofa.", "captions", "B"), ("B A cat on a sofa.", "captions", "B"),
    ("B - A cat on a sofa.", "captions", "B"),
    ("C. A small boat.", "captions", "C"), ("(C) A small boat.", "captions", "C"),
    ("D. Two dogs in the snow.", "captions", "D"),
    ("A. A red bus in front of a church.", "captions", "A"), ("(A) A red bus", "captions", "A"),
    ("A cat on a sofa.", "captions", "B"), ("a cat on a sofa", "captions", "B"), ("A CAT ON A SOFA", "captions", "B"),
    ("A  cat on  a sofa.", "captions", "B"), ("“A cat on a sofa.”", "captions", "B"), ("A small boat.", "captions", "C"),
    ("A small boat", "captions", "C"), ("It shows A cat on a sofa, clearly seen here.", "captions", "B"),
    ("Two dogs in the snow.", "captions", "D"), ("The picture shows two dogs in the snow.", "captions", "D"),
    ("A red bus in front of a church.", "captions", "A"), ("There is a small boat on the water here.", "captions", "C"),
    ("A and B", "captions", None), ("A or B", "captions", None), ("A, B", "captions", None), ("A/B", "captions", None),
    ("Either A or C", "captions", None), ("(A) (B) (C) (D)", "captions", None), ("A\nB\nC\nD", "captions", None),
    ("All of them: A, B, C and D", "captions", None), ("Both B and D", "captions", None), ("ABCD", "captions", None),
    ("Not A, but B", "captions", "B"), ("Not A but rather B", "captions", "B"), ("AB", "captions", None),
    ("E", "captions", None), ("(E)", "captions", None), ("Z", "captions", None), ("The answer is E.", "captions", None),
    ("ANSWER: A\nActually, ANSWER: B", "captions", "B"), ("A\nB", "captions", None),
    ("B\nExplanation: A cat lies there.", "captions", "B"), ("B\n\nBecause I see a sofa", "captions", "B"),
    ("B B B B B B B B", "captions", "B"), ("B" * 10_000, "captions", None), ("B\n" * 3000, "captions", "B"),
    ("cat " * 2500, "captions", None), ("x" * 10_000, "captions", None),
    ("The picture " * 800 + "The answer is B.", "captions", "B"),
    ("I don't know", "captions", None), ("", "captions", None), (" ", "captions", None), ("\n\n", "captions", None),
    ("...", "captions", None), ("?", "captions", None), ("I think it is a cat", "captions", None),
    ("I cannot see the picture.", "captions", None), ("I'm sorry, but I can't help with that.", "captions", None),
    ("As an AI model, I can't look at pictures.", "captions", None), ("None of these", "captions", None),
    ("A person would say it is hard to tell.", "captions", None), ("A nice picture", "captions", None),
    ("Because", "captions", None), ("Dogs", "captions", None), ("Caption", "captions", None),
    ("Beautiful", "captions", None),
    ("选B", "captions", "B"), ("B。", "captions", "B"), ("答案：B", "captions", "B"), ("Ｂ", "captions", "B"),
    ("（B）", "captions", "B"),
    ("答案是B。", "captions", "B"), ("Die Antwort ist B", "captions", "B"), ("La respuesta es B.", "captions", "B"),
    ("La réponse est B.", "captions", "B"), ("猫", "captions", None), ("ответ", "captions", None), ("🙂", "captions", None),
    ("dark blue", "colours", "D"), ("Dark blue.", "colours", "D"), ("blue", "colours", "C"), ("BLUE!", "colours", "C"),
    ("The colour is dark blue in this picture", "colours", "D"), ("It is not red but rather blue here", "colours", "C"),
    ("The bus is green.", "colours", "B"), ("red and green", "colours", None), ("yellow", "colours", None),
    ("greenish", "colours", None), ("colored", "colours", None), ("A green bus", "colours", "B"),
    ("C. blue", "colours", "C"),
    ("1", "numbers", "A"), ("12", "numbers", "B"), ("120", "numbers", "C"), ("1,200", "numbers", "D"),
    ("1200", "numbers", None),
    ("12 dogs", "numbers", "B"), ("There are 120 of them.", "numbers", "C"), ("13", "numbers", None),
    ("D. 1,200", "numbers", "D"),
    ("about 12", "numbers", "B"), ("12.", "numbers", "B"), ("one", "numbers", None), ("1 or 12", "numbers", None),
    ("Vitamin A", "names", "A"), ("vitamin a", "names", "A"), ("It is Vitamin C.", "names", "C"),
    ("None of the above", "names", "D"),
    ("D. None of the above", "names", "D"), ("B. Vitamin B", "names", "B"), ("(C) Vitamin C", "names", "C"),
)  # fmt: skip
"""Answers to questions with options."""

YES_NO: tuple[tuple[str, str | None], ...] = (
    # Text, what a person reads; None where that is neither.
    ("yes", "yes"), ("Yes", "yes"), ("YES", "yes"), ("Yes.", "yes"), ("yes!", "yes"), (" yes", "yes"), ("\nYes\n", "yes"),
    ("no", "no"), ("No", "no"), ("NO", "no"), ("No.", "no"), ("no!", "no"), (" no ", "no"), ("No\n", "no"), ("no,", "no"),
    ("Yes, there is a dog.", "yes"), ("No, there is no dog.", "no"), ("No, there is not.", "no"),
    ("Yes, there is not only a dog.", "yes"),
    ("There is a dog. No cat is seen.", None), ("There is no dog in the picture.", "no"), ("There isn't a dog.", "no"),
    ("The image does not contain a dog.", "no"), ("There is a dog in the picture.", "yes"), ("I see one.", "yes"),
    ("y", "yes"), ("n", "no"), ("Y", "yes"), ("N", "no"), ("yeah", "yes"), ("nope", "no"), ("Nothing", "no"),
    ("None", "no"),
    ("maybe", None), ("I don't know", None), ("", None), (" ", None), ("...", None), ("unknown", None), ("not sure", None),
    ("yes and no", None), ("yes or no", None), ("No yes", None), ("Yes Yes Yes Yes", "yes"), ("no " * 3000, "no"),
    ("yes" * 3000, "yes"),
    ("x" * 10_000, None), ("I'm sorry, but I can't see the picture.", None), ("Answer: yes", "yes"), ("Answer: No", "no"),
    ("The answer is yes.", "yes"), ("The answer is no.", "no"), ("**Yes**", "yes"), ("**No**", "no"), ("(yes)", "yes"),
    ("'no'", "no"),
    ("ja", "yes"), ("nein", "no"), ("sí", "yes"), ("是", "yes"), ("否", "no"), ("oui", "yes"), ("A notebook", None),
    ("nowhere", "no"),
    ("a knot", None), ("Noisy", None), ("Yesterday", None), ("eyes", None), ("1", None), ("true", "yes"), ("False", "no"),
)  # fmt: skip
"""Answers to questions of yes or no."""


@dataclass(frozen=True)
class Marked:
    """An open answer with its mark under the rules of one benchmark."""

    kind: str
    text: str
    accepted: tuple[str, ...]
    mark: float


def _marked(kind: str, *rows: tuple[str, str | tuple[str, ...], float]) -> tuple[Marked, ...]:
    return tuple(Marked(kind, text, (given,) if isinstance(given, str) else given, mark) for text, given, mark in rows)


TEN = 10

OPEN: tuple[Marked, ...] = (
    *_marked(
        "exact_match",
        ("cat", "cat", 1), ("Cat", "cat", 1), ("CAT.", "cat", 1), ("cat...", "cat", 1), (" cat ", "cat", 1),
        ("a cat", "cat", 0),
        ("the cat", "cat", 0), ("cats", "cat", 0), ("cat dog", "cat", 0), ("cat, dog", "cat", 0),
        ("cat\ndog", "cat", 0), ("", "cat", 0),
        (".", "cat", 0), ("yes", "yes", 1), ("Yes, it is", "yes", 0), ("I don't know", "yes", 0), ("cat " * 2000, "cat", 0),
        ("Katze", "cat", 0), ("猫", "cat", 0), ("left", "right", 0), ("T-shirt", "t-shirt", 1), ("U.S.", "u.s", 1),
    ),
    *_marked(
        "relaxed_match",
        ("10", "10", 1), ("10.4", "10", 1), ("10.5", "10", 1), ("10.6", "10", 0), ("9.5", "10", 1), ("9.4", "10", 0),
        ("-10", "10", 0),
        ("10%", "10", 0), ("10%", "0.1", 1), ("0.1", "10%", 1), ("10 %", "10%", 1), ("1,000", "1000", 0),
        ("1,000", "1,000", 1),
        ("$10", "10", 0), ("10 dollars", "10", 0), ("about 10", "10", 0), ("ten", "10", 0), ("1e1", "10", 1),
        ("1_0", "10", 1),
        ("0", "0", 1), ("0.0", "0", 0), ("nan", "10", 0), ("inf", "10", 0), ("", "10", 0), ("Blue", "blue", 1),
        ("blue.", "blue", 0),
        ("[10, 20]", "[10, 20]", 1), ("10, 20", "[10, 20]", 0), ("10 20", "10", 0), ("10" * 5000, "10", 0),
        ("2019", "2020", 1), ("Yes", "yes", 1),
        ("I can't read the chart", "10", 0), ("十", "10", 0), ("１０", "10", 1), ("10:30", "10:30", 1), ("½", "0.5", 0),
    ),
    *_marked(
        "similar_text",
        ("itc limited", "ITC Limited", 1), ("ITC  Limited", "itc limited", 1), ("itc", "itc limited", 0),
        ("itc limitd", "itc limited", 10 / 11),
        ("$1,234", "$1,234", 1), ("1234", "$1,234", 1 - 2 / 6), ("1,234", "$1,234", 1 - 1 / 6), ("", "itc", 0),
        (" ", "itc", 0), ("?", "itc", 0),
        ("ab", "abcd", 0.5), ("a", "abcd", 0), ("The answer is itc limited", "itc limited", 0),
        ("itc limited" * 900, "itc limited", 0),
        ("x" * 10_000, "itc", 0), ("Unanswerable", "itc", 0), ("26-Apr-2000", "26 apr 2000", 1 - 2 / 11),
        ("käse", "kase", 0.75),
        ("猫", "猫", 1), ("猫", "犬", 0), ("b", ("a", "b"), 1), ("0.28%", ("0.28", "0.28 %"), 1 - 1 / 6), ("no", "yes", 0),
    ),
    *_marked(
        "contained_text",
        ("COFFEE", "coffee", 1), ("The word is Coffee.", "coffee", 1), ("cof fee", "coffee", 0),
        ("coffeeshop", "coffee", 1), ("cof", "coffee", 0),
        ("", "coffee", 0), ("coffee\nbar", "coffee bar", 1), ("coffee  bar", "coffee bar", 0), ("1,234", "1234", 0),
        ("12345", "1234", 1),
        ("I can't read it", "coffee", 0), ("not coffee", "coffee", 1), ("coffee " * 1500, "coffee", 1),
        ("x" * 9994 + "coffee", "coffee", 1),
        ("咖啡", "咖啡", 1), ("tea", ("coffee", "tea"), 1), ("Ｃｏｆｆｅｅ", "coffee", 0), ("café", "cafe", 0),
    ),
    *_marked(
        "formula",
        ("\\frac { a } { b }", "\\frac{a}{b}", 1), ("x ^ 2 + 1", "x^2+1", 1), ("X^2", "x^2", 0), ("$x^2$", "x^2", 1),
        ("x^{2}", "x^2", 0),
        ("", "x^2", 0), ("x^\n2", "x^2", 1), ("The formula is x^2 + 1 = 0", "x^2+1=0", 1),
    ),
    *_marked(
        "textvqa",
        ("nokia", ("nokia",) * TEN, 1), ("Nokia", ("nokia",) * TEN, 1), ("Nokia.", ("nokia",) * TEN, 1),
        ("the nokia", ("nokia",) * TEN, 1),
        ("nokia phone", ("nokia",) * TEN, 0), ("", ("the",) * TEN, 0), (" ", ("a",) * TEN, 0), ("the", ("a",) * TEN, 1),
        ("a,b", ("ab",) * TEN, 1),
        ("a,b", ("a b",) * TEN, 0), ("mcdonald's", ("mcdonald 's",) * TEN, 1), ("mcdonald's", ("mcdonalds",) * TEN, 0),
        ("7-up", ("7 up",) * TEN, 1),
        ("7 - up", ("7 up",) * TEN, 1), ("1,000", ("1000",) * TEN, 1), ("two", ("2",) * TEN, 1),
        ("None", ("0",) * TEN, 1), ("dont", ("don't",) * TEN, 1),
        ("yes", ("yes",) * 3 + ("no",) * 7, 0.9), ("yes", ("yes",) * 2 + ("no",) * 8, 0.6),
        ("yes", ("yes",) + ("no",) * 9, 0.3),
        ("unanswerable", ("nokia",) * TEN, 0), ("nokia " * 1500, ("nokia",) * TEN, 0), ("what?", ("what",) * TEN, 1),
        ("3.14", ("3.14",) * TEN, 1),
        ("U.S.A.", ("usa",) * TEN, 1), ("café", ("cafe",) * TEN, 0), ("10:30", ("10:30",) * TEN, 1),
        ("$5", ("5",) * TEN, 0), ("猫", ("猫",) * TEN, 1),
    ),
    *_marked(
        "vqa",
        ("black", ("black",) * TEN, 1), ("Black", ("black",) * TEN, 1), ("Black.", ("black",) * TEN, 1),
        ("The black", ("black",) * TEN, 1),
        ("none", ("none",) + ("no",) * 9, 0.3), ("none", ("none",) * TEN, 0), ("0", ("none",) * TEN, 0),
        ("0", ("none",) * 9 + ("no",), 1), ("a", ("a",) * TEN, 0),
        ("", ("a",) * TEN, 0), ("", ("a",) * 9 + ("b",), 0), ("the", ("a",) * 9 + ("b",), 1), ("", (".",) * TEN, 0),
        ("1,000", ("1000",) * TEN, 1),
        ("1,000", ("1,000",) * TEN, 0), ("1,000", ("1,000",) * 9 + ("10",), 1), ("2.5", ("2.5",) * TEN, 1),
        ("$5", ("5",) * TEN, 0),
        ("yes", ("yes",) * 3 + ("no",) * 7, 0.9), ("yes", ("yes",) * 2 + ("no",) * 8, 0.6),
        ("dont know", ("don't know",) * TEN, 1),
        ("two", ("2",) * TEN, 1), ("two", ("two",) * TEN, 0), ("two", ("two",) * 9 + ("2",), 1),
        ("the cat", ("cat",) * TEN, 1), ("t-shirt", ("t shirt",) * TEN, 1),
        ("t-shirt", ("t-shirt",) * TEN, 0), ("t-shirt", ("t-shirt",) * 9 + ("shirt",), 1),
        ("yes\n\nBecause", ("yes",) * TEN, 1), ("10:30", ("10:30",) * TEN, 1),
        ("black and white", ("black & white",) * TEN, 0), ("I don't know", ("black",) * TEN, 0),
        ("black " * 1500, ("black",) * TEN, 0),
    ),
    *_marked(
        "mmmu",
        ("42", ("42",), 1), ("The answer is 42.", ("42",), 1), ("42 cm", ("42",), 1), ("1,250", ("1250",), 1),
        ("x = 3.14159", ("3.14",), 1), ("four", ("4", "four"), 1),
        ("it is four apples", ("4", "four"), 1), ("14", ("4",), 0), ("", ("4",), 0), ("no idea", ("4",), 0),
        ("Paris", ("london",), 0), ("-2", ("2",), 0),
        ("1.5e3", ("1500",), 1), ("abba", ("b",), 0), ("The result is not 7", ("7",), 1), ("7 " * 2000, ("7",), 1),
        ("x" * 10_000, ("7",), 0), ("七", ("7",), 0),
    ),
)  # fmt: skip
"""Answers to open questions; the mark is the one that the benchmark's rules give. `formula` is OCRBench's kind of task."""
