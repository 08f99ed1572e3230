"""What the report says of test pictures among the training pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from components.runs.lineage import StageRecord
from components.wds_conversion.config import SEEN_FILE

_STAGE = "wds_conversion/"
_LISTED = 20

LIKENESS = {"bytes": "the same file", "pixels": "the same picture in another file", "near": "nearly the same picture"}
_DONE = {"drop": "left out", "report": "kept", "off": "not looked for"}


@dataclass(frozen=True)
class DecontaminationView:
    """What one conversion found: counts by likeness, and samples with the test picture that each shows."""

    title: str
    done: str
    test_pictures: str
    found: list[str]
    samples: list[tuple[str, str, str]]
    more: int


def decontamination_views(stages: Sequence[StageRecord]) -> list[DecontaminationView]:
    """Return what there is to say of every conversion."""
    return [
        _view(record)
        for record in stages
        if record.manifest.stage.startswith(_STAGE) and record.manifest.facts.get("decontamination")
    ]


def _view(record: StageRecord) -> DecontaminationView:
    facts = record.manifest.facts["decontamination"]
    path = record.folder / SEEN_FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    found = facts.get("found", {})
    return DecontaminationView(
        title=record.manifest.stage.removeprefix(_STAGE),
        done=_DONE[facts["mode"]],
        test_pictures=f"{facts.get('test_pictures', 0):,}",
        found=[f"{found[name]:,}" if found else "" for name in LIKENESS],
        samples=[(row["key"], row["test_picture"], LIKENESS[row["likeness"]]) for row in rows[:_LISTED]],
        more=max(0, len(rows) - _LISTED),
    )
