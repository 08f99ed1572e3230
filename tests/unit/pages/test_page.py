"""Pages and picture files: one file each, escaped, that a narrow frame does not cut."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from components.pages.bars import Bar, BarRow, bars
from components.pages.charts import Dot, DotRow, Figure, Series, dot_chart, line_chart
from components.pages.page import render_page, render_picture
from components.pages.pictures import THUMBNAIL_SIDE, data_uri, side_by_side, thumbnail
from tests.support.browser import Browser, find_chromium
from tests.support.html_pages import HOSTILE, parsed
from tests.unit.pages.test_charts import Value

TEMPLATE = """{% extends "base.html.j2" %}
{% import "macros.html.j2" as parts %}
{% block style %}{% include "own.css" %}{% endblock %}
{% block content %}
<h1>{{ view.title }}</h1>
{{ parts.facts(view.facts) }}
{{ parts.summary(view.tiles) }}
{{ parts.bars(view.bars) }}
{{ parts.figures(view.figures) }}
{{ parts.frame(view.picture, view.title) }}{{ parts.frame("", "1", view.title) }}
{{ parts.said(view.title) }}{{ parts.said("") }}
{% endblock %}
"""


@dataclass(frozen=True)
class View:
    """What the template above shows, every text hostile."""

    title: str = HOSTILE
    facts: list[tuple[str, str]] = field(default_factory=lambda: [("Run", HOSTILE)])
    tiles: list[tuple[str, str, str, str]] = field(default_factory=lambda: [("a", HOSTILE, HOSTILE, HOSTILE)])
    bars: list[Bar] = field(default_factory=lambda: bars([BarRow(HOSTILE, Value(50.0, 40.0, 61.0))]))
    figures: list[Figure] = field(default_factory=lambda: figures())
    picture: str = field(default_factory=lambda: data_uri(thumbnail(Image.new("RGB", (640, 320), "red"))))


def figures() -> list[Figure]:
    lines = line_chart(HOSTILE, "step", [Series([(1, 2.0), (50, 1.0)])])
    dots = dot_chart(HOSTILE, [DotRow("Another sample's picture", [Dot(Value(50.0, 40.0, 61.0), "main", HOSTILE)])])
    return [Figure(HOSTILE, lines, [("main", HOSTILE), ("", "plain")]), Figure("Dots", dots)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "test.html.j2").write_text(TEMPLATE)
    (folder / "own.css").write_text(".own { color: red; }")
    (folder / "page.html").write_text(render_page(folder / "test.html.j2", View()))
    return folder / "page.html"


def test_a_page_is_one_file_and_escapes_every_text(page: Path) -> None:
    content = page.read_text()
    shown = parsed(content)
    assert content.startswith("<!doctype html>")
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in shown.tags}
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert not any(text in content for text in ("http:", "https:", "@import", "url("))
    assert "default-src 'none'" in content
    assert ".own { color: red; }" in content
    assert shown.text.count(HOSTILE) == 12
    assert [attributes["alt"] for tag, attributes in shown.tags if tag == "img"] == [f"Held-out picture {HOSTILE}"]
    assert "40.0 to 61.0" in shown.text
    assert "(nothing)" in shown.text


def test_a_picture_file_stands_alone() -> None:
    root = ElementTree.fromstring(render_picture(HOSTILE, figures()))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}title") == HOSTILE
    assert len([one for one in root.iter(f"{space}svg") if one.get("class", "").startswith("chart")]) == 2
    assert not list(root.iter(f"{space}script"))
    assert "--accent" in (root.findtext(f"{space}style") or "")


@pytest.mark.parametrize("size", [(1000, 500), (500, 1000), (40, 20)])
def test_a_thumbnail_keeps_shape_and_colour(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (200, 30, 30))
    _, _, content = data_uri(thumbnail(picture)).partition("data:image/jpeg;base64,")
    small = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.size == size
    assert max(small.size) == min(THUMBNAIL_SIDE, max(size))
    assert small.width / small.height == size[0] / size[1]
    assert max(abs(found - wanted) for found, wanted in zip(small.getpixel((9, 9)), (200, 30, 30), strict=True)) < 4


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_pictures_stand_side_by_side_in_their_order(count: int) -> None:
    colours = [(250 - 30 * number, 30 * number, 90) for number in range(count)]
    shown = side_by_side(
        [Image.new("RGB", (400, 300 if number % 2 else 800), colour) for number, colour in enumerate(colours)]
    )
    assert max(shown.size) <= (THUMBNAIL_SIDE if count > 1 else 800)
    pixels = shown.load()
    assert pixels is not None
    seen = [pixels[x, y] for y in range(shown.height) for x in range(shown.width)]
    assert list(dict.fromkeys(colour for colour in seen if colour != (255, 255, 255))) == colours


@pytest.fixture(scope="module", params=[390, 1280])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium): pages are not looked at in a browser")
    with Browser(program) as browser:
        browser.command(
            "Emulation.setDeviceMetricsOverride", width=request.param, height=900, deviceScaleFactor=1, mobile=False
        )
        yield browser


def test_nothing_is_cut_at_the_side(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.wait_for("document.readyState == 'complete' && document.querySelector('svg.chart')")
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every(chart => chart.getBoundingClientRect().right < innerWidth)"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('svg.lines .line.main')).stroke") == (
        "rgb(59, 91, 219)"
    )
    assert browser.errors == []


WIDEST = "Math.max(...[...document.querySelectorAll('svg')].map(chart => chart.getBoundingClientRect().right))"


def test_a_frame_that_lets_no_style_in_does_not_cut_charts(browser: Browser, page: Path, tmp_path: Path) -> None:
    content = page.read_text()
    assert "style-src 'unsafe-inline'" in content
    (tmp_path / "bare.html").write_text(content.replace("style-src 'unsafe-inline'", "style-src 'none'"))
    browser.open((tmp_path / "bare.html").as_uri())
    browser.wait_for("document.readyState == 'complete' && document.querySelector('svg.chart')")
    assert browser.evaluate(f"{WIDEST} <= innerWidth")
    assert browser.evaluate(
        "[...document.querySelectorAll('svg.chart')].every(chart => chart.getBoundingClientRect().width == chart.parentElement.clientWidth)"
    )


def test_a_picture_file_fits_its_frame(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "picture.svg").write_text(render_picture("t", [figures()[0]] * 2))
    browser.open((tmp_path / "picture.svg").as_uri())
    browser.wait_for("document.readyState == 'complete' && document.querySelector('svg.chart')")
    assert browser.evaluate(f"{WIDEST} <= innerWidth")
    # One below the other, all in the same scale.
    tops = browser.evaluate("[...document.querySelectorAll('svg.chart')].map(one => one.getBoundingClientRect().top)")
    width = browser.evaluate("document.documentElement.getBoundingClientRect().width")
    assert tops[1] - tops[0] == pytest.approx(300 / 540 * width, rel=0.01)
