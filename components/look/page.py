"""The page of a look at a dataset."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.look.findings import Findings, SeenSample
from components.pages.page import render_page
from components.sources.recording import Looked

_TEMPLATE = Path(__file__).parent / "templates" / "look.html.j2"
_BINS = 24


@dataclass(frozen=True)
class Bin:
    """A column of a histogram: what lies in it, and its height in percent of the highest."""

    label: str
    height: float


@dataclass(frozen=True)
class Distribution:
    """How a number is distributed: least, median, 95th percentile, greatest; and a histogram."""

    name: str
    low: str
    median: str
    high: str
    most: str
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class LookView:
    """What the template shows."""

    title: str
    facts: list[tuple[str, str]]
    distributions: list[Distribution]
    unusable: list[tuple[str, int]]
    reasons: list[str]
    cards: list[tuple[SeenSample, list[str]]]
    lead: str


def facts_of(looked: Looked, findings: Findings) -> dict[str, str]:
    """Return what there is to say of a dataset, by name."""
    dataset = looked.dataset
    sizes = [file.size or 0 for file in dataset.files]
    unusable = findings.unusable.total()
    return {
        "source": dataset.shown,
        "split": dataset.split if dataset.config == "default" else f"{dataset.split} of {dataset.config}",
        "layout": f"{dataset.layout}: {looked.about}",
        "columns": ", ".join(looked.columns),
        "rows": f"{dataset.rows:,} in {_counted(len(dataset.files), 'file')}, {sum(sizes) / 1e6:,.1f} MB",
        "looked at": f"{_counted(findings.rows, 'row')}, evenly spread; {_counted(findings.samples, 'sample')}",
        "without a picture": f"{findings.text_only:,}" if findings.text_only else "",
        "several pictures": f"{findings.several_pictures:,}" if findings.several_pictures else "",
        "can't be used": f"{unusable:,}: {_listed(findings)}" if unusable else "",
        "cut": f"{findings.cut:,} samples are longer than a sequence" if findings.cut else "",
    }


def distributions_of(findings: Findings) -> list[Distribution]:
    """Return how lengths and sizes are distributed."""
    shorter = [min(size) for size in findings.sizes]
    aspects = [max(size) / min(size) for size in findings.sizes]
    given = (
        ("tokens", findings.tokens, "{:,.0f}"),
        ("learnt tokens", findings.learnt, "{:,.0f}"),
        ("questions", findings.turns, "{:,.0f}"),
        ("shorter side, pixels", shorter, "{:,.0f}"),
        ("longer side by shorter", aspects, "{:.2f}"),
    )
    return [_distribution(name, values, form) for name, values, form in given if values]


def render_look(looked: Looked, findings: Findings, lead: str) -> str:
    """Return the page, one file that needs nothing else.

    Args:
        looked: The dataset.
        findings: What was found.
        lead: What the samples are shown by: tokenizer, picture size, format.
    """
    view = LookView(
        title=looked.dataset.name,
        facts=[(name, text) for name, text in facts_of(looked, findings).items() if text],
        distributions=distributions_of(findings),
        unusable=sorted(findings.unusable.items()),
        reasons=findings.reasons,
        cards=[(sample, [_uri(png) for png in sample.pictures]) for sample in findings.shown],
        lead=lead,
    )
    return render_page(_TEMPLATE, view)


def _distribution(name: str, values: Sequence[float], form: str) -> Distribution:
    ordered = sorted(values)
    low, most = ordered[0], ordered[-1]
    width = (most - low) / _BINS or 1
    counts = [0] * _BINS
    for value in ordered:
        counts[min(int((value - low) / width), _BINS - 1)] += 1
    bins = tuple(
        Bin(f"{form.format(low + number * width)}: {count:,}", 100 * count / max(counts))
        for number, count in enumerate(counts)
    )
    median, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    low_text, median_text, high_text, most_text = (form.format(value) for value in (low, median, high, most))
    return Distribution(name, low_text, median_text, high_text, most_text, bins)


def _listed(findings: Findings) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in sorted(findings.unusable.items()))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
