import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from components.metrics.tokenization import tokenise

CAPTIONS = [
    'A man\'s "red" bicycle, well-known (really); it is 3.5 m long -- ok?',
    "",
    "Ein café: naïve façade…",
    "two  dogs\nrun!",
    "don't stop",
]


def test_tokens_equal_pycocoevalcap(java: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", java.rsplit("/", 1)[0], prepend=":")
    entries = {row: [{"caption": caption}] for row, caption in enumerate(CAPTIONS)}
    expected = [captions[0] for captions in PTBTokenizer().tokenize(entries).values()]
    assert tokenise(CAPTIONS, java) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\r\n", "\x0b", "\x1e"])
def test_line_breaks_of_any_kind_keep_captions_apart(java: str, separator: str) -> None:
    assert tokenise([f"one{separator}dog", "two dogs"], java) == ["one dog", "two dogs"]


def test_without_java_words_are_lower_case_without_punctuation() -> None:
    assert tokenise(["A man's well-known dog, (really).", " "], None) == ["a man's well-known dog really", ""]
