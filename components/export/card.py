"""The model card: how to load the export, what to know, what was measured, what it was made from."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2

from components.context import RunContext
from components.evaluate.scores import Scores, read_scores
from components.export.source import ModelSource
from components.model.config import ModelConfig
from components.pages.formats import interval, points, size
from components.runs.lineage import StageRecord, upstream_stages
from components.stage.manifest import read_manifest
from components.storage.atomic import write_text

CARD_FILE = "README.md"


def write_card(
    folder: Path,
    model: Path,
    source: ModelSource,
    control: Mapping[str, str],
    facts: Mapping[str, Any],
    scores: Sequence[Path],
) -> None:
    """Write `README.md` of an export.

    Args:
        folder: The export.
        model: The model folder that it was made of.
        source: What that folder holds.
        control: Role to name of the control tokens.
        facts: What was exported and measured.
        scores: Evaluations of the model.
    """
    config, stage = source.config, read_manifest(model)
    text = (resources.files("components.export") / "model_card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    card = environment.from_string(text).render(
        name=f"{stage.stage} {stage.key}",
        facts=facts,
        size_text=size(facts["bytes"]),
        trust=", trust_remote_code=True" if facts["custom_code"] else "",
        begin=control["bos"],
        image=control["image"],
        layout=config.image.layout,
        size=config.image.size,
        resample=config.image.resample,
        projector=_projector(config),
        scores=[row for evaluation in scores for row in _score_rows(read_scores(evaluation))],
        lineage=[_lineage_row(record) for record in _made_from(model)],
    )
    write_text(folder / CARD_FILE, card)


def _projector(config: ModelConfig) -> str:
    """Describe the projector by the widths that it goes through: "4 x 1024 -> 14336 -> 4096"."""
    squares = config.image.pixel_shuffle**2
    first = config.vision.hidden_size if squares == 1 else f"{squares} x {config.vision.hidden_size}"
    return " -> ".join(map(str, [first, *(outputs for _, outputs in config.projector_layers)]))


def _score_rows(scores: Scores) -> list[list[str]]:
    rows = []
    for name, measure in scores.metrics.items():
        samples = f"{scores.n_scored} of {scores.n_dataset}"
        label = scores.label(name) + (" (PARTIAL)" if scores.partial else "")
        rows.append(
            [scores.prompt_version, label, points(measure.value), interval(measure), samples, scores.dataset_file]
        )
    return rows


def _made_from(model: Path) -> list[StageRecord]:
    """Return the model's stage and all stages before it that are still in its workspace."""
    folder, stage = model.resolve(), read_manifest(model)
    identity = Path(stage.stage) / stage.key
    workspace = folder
    if folder.parts[-len(identity.parts) :] == identity.parts:  # not so for a copy of the folder
        workspace = folder.parents[len(identity.parts) - 1]
    return upstream_stages(RunContext(run_id="", run_name="", workspace=workspace), [folder])


def _lineage_row(record: StageRecord) -> list[str]:
    manifest = record.manifest
    return [manifest.stage, f"`{manifest.key}`", _public(str(manifest.settings.get("source", "")))]


def _public(address: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    parts = urlsplit(address)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{parts.scheme}://{place}" if parts.scheme else place
