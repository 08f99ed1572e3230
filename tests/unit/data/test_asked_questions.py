"""Questions that training asks: what counts as the same, and that they are found among many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.asked_questions import asked_in, bare, found_in, packed, question_hash


def test_texts_that_read_the_same_are_the_same() -> None:
    assert bare("  How many?? ") == bare("how\tMANY") == "how many"
    assert bare("?!") == "?!"
    assert question_hash("How many?") == question_hash("how MANY")
    assert question_hash("How many?") != question_hash("How many more?")


def test_a_turn_asks_its_text_and_each_of_its_lines() -> None:
    asked = asked_in(
        [
            {"from": "system", "value": "Where?"},
            {"from": "human", "value": "<image>\nhow   MANY\n(A) one\n(B) two"},
            {"from": "gpt", "value": "Which?"},
            {"from": "human", "value": "And <image> or <image>?"},
            {"from": "gpt", "value": "no"},
        ]
    )
    assert {question_hash(text) for text in ("How many?", "A one", "And or?")} <= asked
    assert not {question_hash(text) for text in ("Where?", "Which?", "no", "What is how many?")} & asked
    assert asked_in([{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cat"}]) == set()


@given(st.lists(st.sets(st.integers(0, 2**64 - 1), max_size=20), max_size=4), st.sets(st.integers(0, 2**64 - 1)))
def test_what_was_written_is_found(
    tmp_path_factory: pytest.TempPathFactory, files: list[set[int]], others: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("questions")
    for number, hashes in enumerate(files):
        (folder / f"{number}.u64").write_bytes(packed(hashes))
    every = set().union(*files)
    wanted = others | set(list(every)[::2])
    assert found_in(folder, wanted) == wanted & every
