"""What the report says of the data that was streamed: how much came from where, and what was left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.pages.pictures import data_uri
from components.runs.lineage import StageRecord
from components.wds_conversion.left_out import left_out_pictures

_STAGE = "wds_conversion"
_PICTURES = 6


@dataclass(frozen=True)
class DatasetRow:
    """A dataset of a mixture."""

    name: str
    source: str
    layout: str
    weight: str
    rows: str
    samples: str
    left_out: str
    rejected: str


@dataclass(frozen=True)
class MixtureView:
    """What one training's data came from, and causes of left-out samples with pictures of some."""

    title: str
    rows: list[DatasetRow]
    left_out: list[tuple[str, int, list[str]]]


def mixture_views(stages: Sequence[StageRecord]) -> list[MixtureView]:
    """Return what there is to say of every conversion that streamed datasets."""
    return [
        _view(record.folder, record.manifest.stage.removeprefix(f"{_STAGE}/"), record.manifest.facts)
        for record in stages
        if record.manifest.stage.startswith(f"{_STAGE}/") and record.manifest.facts.get("datasets")
    ]


def _view(folder: Path, use: str, facts: Mapping[str, Any]) -> MixtureView:
    total = sum(counts["weight"] for counts in facts["datasets"].values())
    left_out = [
        (cause, count, [data_uri(path.read_bytes()) for path in left_out_pictures(folder, cause, _PICTURES)])
        for cause, count in facts["left_out"].items()
    ]
    return MixtureView(use, [_row(name, counts, total) for name, counts in facts["datasets"].items()], left_out)


def _row(name: str, counts: Mapping[str, Any], total: float) -> DatasetRow:
    return DatasetRow(
        name=name,
        source=counts["source"],
        layout=counts["layout"],
        weight=f"{counts['weight'] / total:.0%}",
        rows=f"{counts['rows']:,}",
        samples=f"{counts['samples']:,}",
        left_out=_listed(counts["left_out"]),
        rejected=_listed(counts["reject_causes"]),
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in counts.items()) or "0"
