"""The stage: a downloaded part becomes a part folder."""

from pathlib import Path
from typing import Any

from components.errors import StageError
from components.stage.context import RunContext
from components.stage.runner import StageOutput, StageWork, run_stage
from components.weight_conversion.config import WeightConversionConfig

STAGE = "weight_conversion"
VERSION = 1
REPORT_FILE = "conversion_report.json"
NOT_VERIFIED = "not verified"


def run_weight_conversion(context: RunContext, config: WeightConversionConfig, weights: Path) -> StageOutput:
    """Convert one part of the downloaded weights.

    Args:
        context: The pipeline run.
        config: Which part, and how.
        weights: Folder of the weight download: `language/` and `vision/` in Hugging Face layout.

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
    from components.model.checkpoint import save_part
    from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, write_stored
    from components.model.distributed import single_process
    from components.storage.atomic import write_json
    from components.weight_conversion.convert import fill
    from components.weight_conversion.parts import open_part
    from components.weight_conversion.safetensors_folder import SafetensorsFolder
    from components.weight_conversion.tokenizer_files import copy_tokenizer

    if config.part == "language":
        copy_tokenizer(source, work.folder / TOKENIZER_FOLDER)
    checkpoint = work.folder / CHECKPOINT_FOLDER
    tensors = SafetensorsFolder(source)
    part = open_part(config, source, tensors)
    with single_process():
        work.progress.start("converting", len(part.rules), "parameters")
        module = part.build()
        report = fill(module, tensors, part.rules, part.drops, work.progress.update)
        save_part(module, checkpoint, config.part)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        del module
        difference = part.difference(checkpoint) if config.verify else None
    if difference is not None and not difference <= config.tolerance:
        raise StageError(
            f"The converted {config.part} model's output differs from that of {source} by up to {difference:.3g}; the "
            f"tolerance is {config.tolerance:g}. Either this model has a feature that the conversion does not know, or "
            "weight_conversion's tolerance is too tight for its size."
        )
    facts = {
        "part": config.part,
        "architecture": part.architecture,
        "dtype": part.stored.dtype,
        "parameters": parameters,
        "mapped": len(report.mapped),
        "dropped": len(report.dropped),
        "max_logit_difference": NOT_VERIFIED if difference is None else difference,
    }
    write_stored(work.folder, part.stored)
    write_json(work.folder / REPORT_FILE, {**facts, "mapped": report.mapped, "dropped": report.dropped})
    return facts
