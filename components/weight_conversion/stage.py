"""The stage: a downloaded part becomes a part folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.errors import StageError
from components.stage.runner import StageOutput, StageWork, run_stage
from components.storage.atomic import write_json
from components.weight_conversion.config import WeightConversionConfig

STAGE = "weight_conversion"
VERSION = 4
REPORT_FILE = "conversion_report.json"
NOT_VERIFIED = "not verified"


def run_weight_conversion(context: RunContext, config: WeightConversionConfig, weights: Path) -> StageOutput:
    """Convert one part of the downloaded weights.

    Args:
        context: The pipeline run.
        config: Which part, and how.
        weights: Folder of the weight download: `language/` and `vision/` as they were published.

    Returns:
        A folder with `checkpoint/`, `model.json`, `conversion_report.json` and, for the language model, `tokenizer/`.

    Raises:
        InputError: The source is incomplete, damaged, or of an unsupported architecture.
        StageError: The converted model computes something else than the source.
    """

    def body(work: StageWork) -> dict[str, Any]:
        return _convert(config, weights / config.part, work)

    stage = f"{STAGE}/{config.part}"
    return run_stage(context, stage=stage, version=VERSION, inputs={"weights": weights}, settings=config, body=body)


def _convert(config: WeightConversionConfig, source: Path, work: StageWork) -> dict[str, Any]:
    # Imported here: a run that reuses the finished folder needs none of it.
    from components.data.tokenizer_folder import prepare_tokenizer
    from components.model.checkpoint.sharded import PART_PREFIXES
    from components.model.checkpoint.streamed import save_streamed
    from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, TORCH_DTYPES, write_stored
    from components.model.distributed import single_process
    from components.model.families.hf_config import read_hf_config
    from components.model.families.language.registry import family_of
    from components.model.streaming import outlined, with_progress
    from components.weight_conversion.convert import Conversion
    from components.weight_conversion.parts import open_part
    from components.weight_conversion.tensor_source import open_source

    tokenizer = None
    if config.part == "language":
        facts_of_chats = family_of(read_hf_config(source)).chat
        tokenizer = prepare_tokenizer(source, work.folder / TOKENIZER_FOLDER, facts_of_chats)
    checkpoint = work.folder / CHECKPOINT_FOLDER
    tensors = open_source(source)
    part = open_part(config, source, tensors)
    with single_process():
        outline = outlined(lambda: part.build(TORCH_DTYPES[part.stored.dtype]))
        conversion = Conversion(tensors, source, part.rules, part.drops, outline)
        make = with_progress(conversion.parameter, outline, "converting", work.progress)
        save_streamed(outline, checkpoint, make, PART_PREFIXES[config.part])
        if config.verify:
            work.progress.start("comparing with the source", None, "")
        difference = part.difference(checkpoint) if config.verify else None
    if difference is not None and not difference.within(config.tolerance):
        raise StageError(
            f"The converted {config.part} model's output differs from that of {source} by up to {difference.largest:.3g} "
            f"(values go up to {difference.scale:.3g}); weight_conversion.{config.part}.tolerance is "
            f"{config.tolerance:g}. Either this model has a feature that the conversion does not know, or the tolerance "
            "is too tight for its size."
        )
    report = conversion.report
    facts = {
        "part": config.part,
        "architecture": part.architecture,
        "dtype": part.stored.dtype,
        "parameters": sum(parameter.numel() for parameter in outline.parameters()),
        "source_tensors": len(tensors.names),
        "mapped": len(report.mapped),
        "dropped": len(report.dropped),
        "max_logit_difference": NOT_VERIFIED if difference is None else difference.largest,
        "largest_logit": NOT_VERIFIED if difference is None else difference.scale,
    }
    if part.pixel_source is not None:
        facts["picture_settings"] = part.pixel_source
    if tokenizer is not None:
        facts["tokenizer"] = asdict(tokenizer)
    write_stored(work.folder, part.stored)
    write_json(work.folder / REPORT_FILE, {"facts": facts, **asdict(report)})
    work.tracker.log_artifact(work.folder / REPORT_FILE)
    return facts
