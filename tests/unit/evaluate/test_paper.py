"""Scores as a paper prints them."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.paper import PaperTable, paper_table
from components.evaluate.scores import Measure, Presentation, PublishedFigure, Scores
from components.evaluate.seen import SeenInTraining

QWEN = PublishedFigure(model="Qwen-VL", metric="macro_f1", value=65.1, source="its paper", note="test split")
LLAVA = PublishedFigure(model="LLaVA-1.5-7B", metric="macro_f1", value=85.9, source="its model zoo")


def scores(task: str, headline: str, presentation: dict[str, Any], **changes: Any) -> Scores:
    known: dict[str, Any] = {
        "task": task,
        "kind": "k",
        "headline": headline,
        "n_expected": 9000,
        "n_scored": 9000,
        "n_dataset": 9000,
        "duplicates": 0,
        "empties": 0,
        "metrics": {headline: Measure(value=84.04, low=83.2, high=84.9)},
        "controls": {"blank": {headline: Measure(value=66.7)}, "constant": {headline: Measure(value=50.0)}},
        "differences": {},
        "prompt": "",
        "prompt_version": "",
        "dataset": "",
        "dataset_file": "",
        "checkpoint": "",
        "generation": "",
        "bootstrap_samples": 100,
        "git_commit": "",
        "presentation": Presentation(**presentation),
    }
    return Scores(**(known | changes))


def pope(**changes: Any) -> Scores:
    shown = {"title": "POPE", "labels": {"macro_f1": "F1"}, "columns": ("macro_f1",), "published": (LLAVA,)}
    return scores("pope", "macro_f1", shown, **changes)


def mme() -> Scores:
    metrics = {"mme_total": Measure(value=1800.0), "mme_cognition": Measure(value=349.75)}
    metrics["mme_perception"] = Measure(value=1450.25, low=1401, high=1490)
    controls = {"blank": {"mme_perception": Measure(value=900.0)}}
    shown = {"title": "MME", "columns": ("mme_perception", "mme_cognition")}
    return scores("mme", "mme_total", shown, metrics=metrics, controls=controls, n_scored=2374)


def test_one_model_stands_beside_its_controls_and_published_figures() -> None:
    table = paper_table({"mine": {"pope": pope(), "mme": mme()}})
    assert table.heads == ["Benchmark", "Metric", "n", "mine", "Blank", "Constant", "LLaVA-1.5-7B"]
    assert [[cell.whole for cell in row] for row in table.rows] == [
        ["POPE", "F1", "9000", "84.0 (83.2 to 84.9)", "66.7", "50.0", "85.9"],
        ["MME", "Perception", "2374", "1450.2 (1401.0 to 1490.0)", "900.0", "–", "–"],
        ["MME", "Cognition", "2374", "349.8", "–", "–", "–"],
    ]
    assert any("its model zoo" in note for note in table.notes)


def test_several_models_have_a_column_each_and_say_what_is_partial() -> None:
    partial = pope(partial="only the first 100 of 9000 questions were asked", n_scored=100)
    table = paper_table({"mine": {"pope": pope(), "mme": mme()}, "other": {"pope": partial}})
    assert table.heads == ["Benchmark", "Metric", "n", "mine", "other", "LLaVA-1.5-7B"]
    assert [cell.text for cell in table.rows[0]] == ["POPE", "F1", "100 / 9000", "84.0", "84.0†", "85.9"]
    assert [cell.text for cell in table.rows[1]][3:] == ["1450.2", "–", "–"]
    assert any("only the first 100 of 9000" in note for note in table.notes)


def test_pictures_that_training_saw_are_counted_where_that_is_known() -> None:
    known, unknown = SeenInTraining(pictures=500, seen=12), SeenInTraining(pictures=500)
    table = paper_table({"mine": {"pope": pope(seen=known), "mme": mme()}, "other": {"pope": pope(seen=unknown)}})
    assert table.heads[:4] == ["Benchmark", "Metric", "n", "Seen"]
    assert [row[3].text for row in table.rows] == ["12 / –", "–", "–"]


def test_two_evaluations_by_one_task_are_told_apart() -> None:
    table = paper_table({"mine": {"before": pope(), "after": pope(), "mme": mme()}})
    assert [row[0].text for row in table.rows] == ["POPE (before)", "POPE (after)", "MME", "MME"]


def test_a_figure_of_another_split_is_marked() -> None:
    shown = {"title": "POPE", "published": (LLAVA, QWEN)}
    table = paper_table({"mine": {"pope": scores("pope", "macro_f1", shown)}})
    assert [cell.text for cell in table.rows[0]][-2:] == ["85.9", "65.1*"]
    assert "* Published of something else (POPE: test split)." in table.notes


def test_it_is_copied_as_markdown_and_as_latex() -> None:
    table = paper_table({"my_run & 50%": {"pope": pope(partial="x")}})
    assert table.markdown().splitlines()[:3] == [
        "| Benchmark | Metric | n | my_run & 50% | Blank | Constant | LLaVA-1.5-7B |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| POPE | F1 | 9000 | 84.0† (83.2 to 84.9) | 66.7 | 50.0 | 85.9 |",
    ]
    assert table.latex().splitlines()[:7] == [
        r"\begin{tabular}{llrrrrr}",
        r"\toprule",
        r"Benchmark & Metric & n & my\_run \& 50\% & Blank & Constant & LLaVA-1.5-7B \\",
        r"\midrule",
        r"POPE & F1 & 9000 & 84.0\textsuperscript{\dag} {\scriptsize(83.2 to 84.9)} & 66.7 & 50.0 & 85.9 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_any_name_keeps_the_columns(name: str) -> None:
    table: PaperTable = paper_table({name: {"pope": pope(), "mme": mme()}})
    for line in table.markdown().splitlines()[:4]:
        assert len(re.findall(r"(?<!\\)\|", line.replace(r"\\", ""))) == len(table.heads) + 1
    for line in table.latex().splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.heads) - 1
