"""Scores of several benchmarks as one chart."""

import re

from components.evaluate.profile import profile
from components.evaluate.scores import Measure
from components.pages.charts import Dot, ProfileRow, profile_chart
from tests.unit.evaluate.test_paper import QWEN, mme, pope, scores


def titles(chart: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", chart)


def test_one_model_stands_between_its_best_control_and_published_figures() -> None:
    (figure,) = profile({"mine": {"pope": pope(), "mme": mme()}})
    assert titles(figure.chart) == [
        "best control: 66.7", "LLaVA-1.5-7B: 85.9", "mine: 84.0",
        "best control: 900.0", "mine: 1450.2",
        "mine: 349.8",
    ]  # fmt: skip
    assert [name for _, name in figure.legend] == ["mine", "LLaVA-1.5-7B, as published", "best control"]
    assert "1450.2 of 2,000" in figure.chart  # MME's perception ends at 2000, whatever was reached
    assert "84.0 of 100" in figure.chart


def test_several_models_have_a_colour_each_and_no_control() -> None:
    (figure,) = profile({"mine": {"pope": pope(), "mme": mme()}, "other": {"pope": pope()}})
    assert titles(figure.chart)[:3] == ["LLaVA-1.5-7B: 85.9", "mine: 84.0", "other: 84.0"]
    assert [style for style, _ in figure.legend] == ["run-0", "run-1", "run-2 control"]


def test_figures_of_another_split_are_left_out_and_so_is_a_chart_of_two_lines() -> None:
    two = {"before": pope(), "after": scores("pope", "macro_f1", {"title": "POPE", "published": (QWEN,)})}
    assert profile({"mine": two}) == []
    (figure,) = profile({"mine": {**two, "mme": mme()}})
    assert not any("Qwen" in name for _, name in figure.legend)


def test_places_are_shares_of_each_line() -> None:
    rows = [
        ProfileRow("a", 100, "", [Dot(Measure(value=50), "main", "m")]),
        ProfileRow("b", 2800, "", [Dot(Measure(value=1400), "main", "m")]),
    ]
    places = re.findall(r'circle cx="([\d.]+)"', profile_chart("t", rows))
    assert len(places) == 2
    assert places[0] == places[1]
    assert profile_chart("t", []) == ""
