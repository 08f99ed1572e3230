"""Every rule that turns an answer's text into a mark: multiple choice, MMMU's open questions, VQA."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.metrics.partly_right import VQA_ACCURACY
from components.tasks.kind import Examination
from components.tasks.kinds.contractions import CONTRACTIONS
from components.tasks.kinds.letters import read_mmmu as read_choice
from components.tasks.kinds.letters import read_option_text
from components.tasks.kinds.mmmu import DISCIPLINES, Mmmu, is_accepted, normalise, read_open_answer
from components.tasks.kinds.multiple_choice import MultipleChoice, constant_letter, stand_in
from components.tasks.kinds.vqa import TextVqa, Vqa
from components.tasks.kinds.vqa_answers import normalise_textvqa, normalise_vqa
from components.tasks.loading import load_task
from components.tasks.sample import HeldOutSample

COLOURS = ("red", "dark red", "blue", "green")


def question(number: int, answer: str = "", **fields: object) -> HeldOutSample:
    options = COLOURS if answer else ()
    return HeldOutSample(str(number), "a.jpg", options=options, answer=answer, **fields)  # type: ignore[arg-type]


# Multiple choice.


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B)", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("'C',", "C"),
        ("The answer is (C).", "C"),
        ("(A) or rather (D)", "D"),
        ("B or C", "C"),
        ("C, A is wrong, C it is", "C"),
        ("Not A but (B) it is, A is wrong", "B"),  # a bracket goes before a lone letter, wherever it stands
        ("I think that the thing is green in here", "D"),
        ("it is not blue I say but DARK RED", "A"),  # "red" begins after "dark red" does
        ("it could be blue or else it could be red", "A"),
        ("A red thing is in this picture", "A"),  # an article reads as a letter, as in the benchmark
    ],
)
def test_choices_are_read_by_the_rules_of_mmmu(text: str, letter: str) -> None:
    assert read_choice(text, COLOURS) == letter


@pytest.mark.parametrize(("text", "letter"), [("D)", "D"), ("A\nbecause", "A"), ("  C ,", "C"), ("  C  ", "C")])
def test_what_mmmu_would_guess_may_still_be_read(text: str, letter: str) -> None:
    assert read_choice(text, COLOURS) == letter


UNREADABLE = ["", "green", "b", "E", "(E)", "Apple", "because", "no idea at all what this is about"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_answers_are_counted_and_get_a_fixed_letter(text: str) -> None:
    task, sample = load_task("mmmu"), question(7, "A")
    first = Mmmu().parse(task, sample, text, 3)
    assert not first.readable
    assert first == Mmmu().parse(task, sample, text, 3)
    assert first.value == stand_in(COLOURS, "7", 3)


def test_fixed_letters_spread_over_all_options() -> None:
    letters = [stand_in(COLOURS, str(number), 0) for number in range(400)]
    assert all(70 < letters.count(letter) < 130 for letter in "ABCD")


@given(st.text(), st.lists(st.text(), min_size=2, max_size=26))
def test_any_text_gives_a_letter_of_the_question_or_none(text: str, options: list[str]) -> None:
    assert (read_choice(text, options) or "A") in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]


@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=5), st.text(alphabet="efgh \n.", max_size=20))
def test_the_last_bracketed_letter_wins(letters: list[str], filler: str) -> None:
    assert read_choice(filler.join(f"({letter})" for letter in letters), COLOURS) == letters[-1]


@pytest.mark.parametrize(
    ("text", "letter"), [("Dark red.", "B"), (" blue ", "C"), ("not blue", None), ("", None), ("A", None)]
)
def test_an_answer_in_words_must_be_an_option_and_nothing_else(text: str, letter: str | None) -> None:
    assert read_option_text(text, COLOURS) == letter


def test_the_constant_letter_is_the_one_that_is_right_most_often() -> None:
    samples = [question(row, answer) for row, answer in enumerate("CACB")]
    best = constant_letter(samples)
    assert best.text == "C"
    assert [MultipleChoice().mark(sample, best.reading) for sample in samples] == [1, 0, 1, 0]
    assert constant_letter([question(1, "B"), question(2, "A")]).text == "A"
    unanswerable = question(1, references=("A",))
    assert Mmmu().mark(unanswerable, constant_letter([unanswerable]).reading) == 0


# MMMU.


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("42", {42.0}),
        ("The answer is 42.", {42.0}),
        ("x = 3.14159", {3.14}),  # "=" counts in the last line, numbers have two places
        ("x = 3\nIt is blue", {"blue"}),
        ("It is red.\nSo it could be 1,250 cm", {"red.", "1,250 cm", 1250.0, 250.0}),  # a line each
        ("about 1.5e3 or -2", {"about 1.5e3 or -2", 1500.0, 1.0, 3.0, -2.0}),
        ("The result is thus a Cat", {"a cat"}),  # the shortest of several tails
        ("B", {" b", "b "}),
        ("The answer is :", {"the answer is :"}),  # nothing but a mark: all of it
        ("therefore blue, so ", {"blue, so"}),
        ("it is blue so\nthe answer is so ", {"blue so", "so"}),
        ("", {""}),
    ],
)
def test_open_answers_are_read_by_the_rules_of_mmmu(text: str, candidates: set[str | float]) -> None:
    assert set(read_open_answer(text)) == candidates


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        ("The answer is 4", ("4", "four"), True),
        ("it is four apples", ("4", "four"), True),  # an accepted text within
        ("14", ("4",), False),  # numbers are equal or not
        ("4.004", ("4",), True),
        ("1,000", ("1000",), True),
        ("a b", ("b",), True),
        ("abba", ("b",), False),  # a single letter only beside a blank
        ("Paris", ("london",), False),
        ("", ("4",), False),
    ],
)
def test_open_answers_are_marked_by_the_rules_of_mmmu(text: str, accepted: tuple[str, ...], right: bool) -> None:
    assert is_accepted(read_open_answer(text), accepted) == right


@pytest.mark.parametrize(
    ("text", "values"), [(" 1,234.567 ", [1234.57]), ("5%", ["5%"]), ("X", [" x", "x "]), ("A Cat", ["a cat"])]
)
def test_numbers_and_texts_are_normalised_as_in_mmmu(text: str, values: list[object]) -> None:
    assert normalise(text) == values


@given(st.text(), st.lists(st.text(), max_size=3))
def test_any_open_answer_can_be_marked(text: str, accepted: list[str]) -> None:
    assert is_accepted(read_open_answer(text), accepted) in (True, False)


@given(st.floats(-1e6, 1e6), st.sampled_from(["{}", "The answer is {}", "so it could be\nx ={}"]))
def test_a_number_is_found_wherever_it_stands(number: float, frame: str) -> None:
    text = f"{number:.3f}"
    assert is_accepted(read_open_answer(frame.format(text)), [text])


def test_mmmu_mixes_both_sorts_and_scores_subjects_and_disciplines() -> None:
    task = load_task("mmmu")
    samples = [
        question(1, "A", category="Art"),
        question(2, "B", category="Music", images=("a.jpg", "b.jpg")),
        question(3, "A", category="Math"),
        question(4, references=("5", "five"), category="Math"),
    ]
    texts = {"none": ["(A)", "no idea", "B", "it is five"], "blank": ["A", "A", "A", "A"]}
    found = Mmmu().examine(Examination(task, samples, texts, raw=None, seed=2))  # type: ignore[arg-type]
    guess = stand_in(COLOURS, "2", 2)
    assert found.statistics["none"]["accuracy"].parts[:, 0].tolist() == [1, float(guess == "B"), 0, 1]
    assert found.unparsed == {"none": 1, "blank": 0}
    assert found.constant == "A"
    assert found.statistics["constant"]["accuracy"].value() == 2 / 4
    assert found.statistics["chance"]["accuracy"].value() == pytest.approx((3 * 0.25 + 0) / 4)
    assert found.groups["discipline"] == ["Art and Design", "Art and Design", "Science", "Science"]
    assert found.groups["form"] == ["with options", "with options", "with options", "open"]
    assert list(found.listed.values()) == [["2"]]


def test_mmmu_has_thirty_subjects_in_six_disciplines() -> None:
    subjects = [subject for group in DISCIPLINES.values() for subject in group]
    assert (len(DISCIPLINES), len(subjects), len(set(subjects))) == (6, 30, 30)


# VQA.


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("The dog", "dog"),
        ("a red an apple the", "red apple"),
        ("two", "2"),
        ("None", "0"),
        ("Ten dogs", "10 dogs"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("lets", "lets"),  # not in the challenge's table
        ("t-shirt", "t shirt"),  # no blank beside the mark: a blank takes its place
        ("black - white", "black white"),  # a blank beside it: it goes
        ("what?", "what"),
        ("1,000", "1000"),  # a number with commas: every mark goes
        ("red/blue 1,000", "redblue 1000"),
        ("3.14", "3.14"),
        ("U.S.", "us"),
        ("it's", "it's"),
        ("two\nlines\t here", "2 lines here"),
        ("", ""),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_in_the_vqa_challenge(text: str, normal: str) -> None:
    assert normalise_vqa(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a,b", "ab"),  # a comma goes, whatever is beside it
        ("McDonald's", "mcdonald 's"),
        ("t-shirt", "t shirt"),
        ("what?", "what"),
        ("The 7-up", "7 up"),
        ("two", "2"),
        ("U.S.A.", "usa"),
        ("Dont", "don't"),
        ("a\nb", "b"),
        ("", ""),
    ],
)
def test_textvqa_normalises_otherwise(text: str, normal: str) -> None:
    assert normalise_textvqa(text) == normal


def test_full_stops_go_up_to_the_thirty_second() -> None:
    """The programs give `re.UNICODE`, which is 32, where the number of replacements belongs."""
    assert normalise_vqa("a." * 40) == "a" * 33 + ".a" * 7 + "."


def test_where_all_people_agree_their_answer_is_not_normalised() -> None:
    task = load_task("vqav2")
    agreed, nearly = question(1, references=("t-shirt",) * 10), question(2, references=("t-shirt",) * 9 + ("shirt",))
    for sample, mark in ((agreed, 0.0), (nearly, 1.0)):
        assert Vqa().mark(sample, Vqa().parse(task, sample, "T-shirt.", 0)) == pytest.approx(mark)
        assert TextVqa().mark(sample, TextVqa().parse(task, sample, "T-shirt.", 0)) == 1


@pytest.mark.parametrize("kind", [Vqa(), TextVqa()], ids=["vqav2", "textvqa"])
@pytest.mark.parametrize("given_answers", [("the",) * 10, (".",) * 9 + ("a",)])
def test_an_empty_answer_matches_nothing(kind: Vqa, given_answers: tuple[str, ...]) -> None:
    sample = question(1, references=given_answers)
    for text in ("", " ", "\n"):
        assert kind.mark(sample, kind.parse(load_task("vqav2"), sample, text, 0)) == 0


def test_contractions_are_those_of_the_challenge() -> None:
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["oclock"] == "o'clock"
    assert CONTRACTIONS["hed've"] == CONTRACTIONS["he'dve"] == "he'd've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd"


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)  # the table that the challenge publishes
def test_soft_accuracy_of_ten_people(matches: int, accuracy: float) -> None:
    assert VQA_ACCURACY.per_sample(matches, 10)[0] == pytest.approx(accuracy)


@given(st.lists(st.sampled_from(["yes", "no", "maybe"]), min_size=2, max_size=12), st.sampled_from(["yes", "no"]))
def test_soft_accuracy_is_the_mean_over_leaving_each_person_out(answers: list[str], given_answer: str) -> None:
    """The definition, person by person."""
    parts = []
    for left_out in range(len(answers)):
        others = [answer for row, answer in enumerate(answers) if row != left_out]
        parts.append(min(1.0, sum(answer == given_answer for answer in others) / 3))
    assert VQA_ACCURACY.per_sample(answers.count(given_answer), len(answers))[0] == pytest.approx(
        statistics.mean(parts)
    )


def test_vqa_is_scored_softly_beside_the_best_constant_answer() -> None:
    samples = [
        question(1, references=("yes",) * 8 + ("no", "No."), category="yes/no"),
        question(2, references=("Two", "2") * 5, category="number"),
        question(3, references=("yes", "red") + ("blue",) * 8, category="other"),
    ]
    texts = {"none": ["No", "two", "Red"]}
    found = Vqa().examine(Examination(load_task("vqav2"), samples, texts, raw=None))  # type: ignore[arg-type]
    assert found.statistics["none"]["vqa_accuracy"].parts[:, 0].tolist() == pytest.approx([0.6, 1.0, 0.3])
    assert (found.constant, found.groups["kind of answer"]) == ("yes", ["yes/no", "number", "other"])
    assert found.statistics["constant"]["vqa_accuracy"].value() == pytest.approx((1 + 0 + 0.3) / 3)
    assert [answer.read for answer in found.answers["none"]] == ["no", "2", "red"]
    assert "chance" not in found.statistics
