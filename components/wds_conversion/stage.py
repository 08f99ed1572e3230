"""The WebDataset conversion as a stage: as a whole, or in parts that are joined."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.cores import available_cores
from components.data.image_roots import picture_files
from components.errors import StageError
from components.progress import PARTS
from components.sources.recorded import mixture_file, read_mixture
from components.stage.manifest import read_manifest
from components.stage.part import Part, part_of
from components.stage.runner import StageOutput, StageWork, run_stage
from components.wds_conversion.config import EVALUATION_PICTURES, WdsConversionConfig

VERSION = 7


def run_wds_conversion(context: RunContext, config: WdsConversionConfig, raw: Path) -> StageOutput:
    """Convert one annotation file of a raw dataset to shards.

    Args:
        context: The pipeline run.
        config: The settings; `prefix` names this use of the stage.
        raw: Finished folder of the download stage.

    Returns:
        A folder with `shards/`, `markers/` and `rejects.jsonl`.

    Raises:
        InputError: The raw dataset can't be read, or too many entries were rejected.
    """

    def body(work: StageWork) -> dict[str, Any]:
        from components.wds_conversion.conversion import REJECTS_FILE, check_shard_count, convert

        converted = convert(raw, work.folder, config, available_cores(), work.progress)
        check_shard_count(converted.facts, config, work.folder / REJECTS_FILE)
        work.known_files.update(converted.files)
        return converted.facts

    return _run(context, config, f"wds_conversion/{config.prefix}", {"raw": _read(raw, config)}, body)


def run_wds_conversion_part(context: RunContext, config: WdsConversionConfig, raw: Path, part: int) -> StageOutput:
    """Write one range of the shards, in a folder of its own: tasks side by side never write to the same place.

    Args:
        context: The pipeline run.
        config: The settings.
        raw: Finished folder of the download stage.
        part: Number of the part, from 0, of `config.parallel_tasks`.

    Returns:
        A folder like that of the whole conversion, with some of its shards.

    Raises:
        InputError: The raw dataset can't be read, or more entries were rejected than the whole may have.
        StageError: There is no such part.
    """
    total = config.parallel_tasks
    if not 0 <= part < total:
        raise StageError(
            f"There is no part {part} of {total}: `parallel_tasks` must be the one of the compiled pipeline."
        )

    def body(work: StageWork) -> dict[str, Any]:
        from components.wds_conversion.conversion import Part, convert

        converted = convert(raw, work.folder, config, available_cores(), work.progress, Part(part, total))
        work.known_files.update(converted.files)
        return {**converted.facts, "entries_in_all": converted.entries}

    return _run(context, config, _parts_stage(config), {"raw": _read(raw, config), "part": f"{part} of {total}"}, body)


def run_wds_conversion_merge(
    context: RunContext, config: WdsConversionConfig, raw: Path, parts: Sequence[Path]
) -> StageOutput:
    """Join the parts of a conversion to what one task would have written: same folder, same bytes.

    Args:
        context: The pipeline run.
        config: The settings.
        raw: Finished folder of the download stage.
        parts: Finished folders of all parts.

    Returns:
        The folder that `run_wds_conversion` returns.

    Raises:
        InputError: Too many entries were rejected.
        StageError: A part or a shard is missing, or a part is of another conversion.
    """
    expected = {f"{number} of {config.parallel_tasks}" for number in range(config.parallel_tasks)}
    read = _read(raw, config)
    found = set()
    for folder in parts:
        manifest = read_manifest(folder)
        if (
            manifest.stage != _parts_stage(config)
            or manifest.version != VERSION
            or manifest.inputs["raw"] != read.identity
            or manifest.settings != config.content.model_dump(mode="json")
        ):
            raise StageError(f"{folder} is not a part of this conversion: it has another dataset or other settings.")
        found.add(manifest.inputs["part"])
    if found != expected or len(parts) != len(expected):
        raise StageError(
            f"The conversion needs the parts {sorted(expected)}, each once; it was given {len(parts)}: {sorted(found)}."
        )

    def body(work: StageWork) -> dict[str, Any]:
        from components.wds_conversion.merging import merge

        merged = merge(parts, work.folder, config, raw / config.annotations, work.progress)
        work.known_files.update(merged.files)
        return merged.facts

    return _run(context, config, f"wds_conversion/{config.prefix}", {"raw": read}, body)


def _run(
    context: RunContext,
    config: WdsConversionConfig,
    stage: str,
    inputs: Mapping[str, Path | str | Part],
    body: Callable[[StageWork], Mapping[str, Any]],
) -> StageOutput:
    return run_stage(context, stage=stage, version=VERSION, inputs=inputs, settings=config.content, body=body)


def _read(raw: Path, config: WdsConversionConfig) -> Part:
    """Return what a conversion reads of a raw dataset: other annotations and evaluation data may change."""
    sources, roots = picture_files(raw)
    if config.decontaminate != "off" and (raw / EVALUATION_PICTURES).is_file():
        sources.append(EVALUATION_PICTURES)
    path = mixture_file(raw / config.annotations)
    if path.is_file():  # how patiently it is read changes nothing
        mixture = read_mixture(path).model_dump(mode="json", exclude={"transfer"})
        return part_of(raw, sources, {"roots": roots, "mixture": mixture})
    return part_of(raw, [config.annotations, *sources], {"roots": roots})


def _parts_stage(config: WdsConversionConfig) -> str:
    return f"wds_conversion/{config.prefix}{PARTS}"
