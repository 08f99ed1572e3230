"""The stage: a model folder becomes a folder in Hugging Face layout."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.errors import ConfigurationError, StageError
from components.export.config import ExportConfig
from components.progress import Progress
from components.stage.manifest import check_files, read_manifest
from components.stage.runner import StageOutput, StageWork, run_stage

STAGE = "export"
VERSION = 2
REPORT_FILE = "export_report.json"
NOT_VERIFIED = "not verified"


def run_export(context: RunContext, config: ExportConfig, model: Path, scores: Sequence[Path] = ()) -> StageOutput:
    """Export a model.

    Args:
        context: The pipeline run.
        config: Type, size of files, verification.
        model: Model folder of a training stage or of combine.
        scores: Evaluations of that model, for the model card.

    Returns:
        A folder that `AutoProcessor` and `AutoModelForImageTextToText` load, with `export_report.json`.

    Raises:
        ConfigurationError: transformers can't express the model.
        InputError: The model folder is damaged, or its tokenizer can't be expressed.
        StageError: The exported folder computes something else than the checkpoint.
    """

    def body(work: StageWork) -> dict[str, Any]:
        for left in work.folder.iterdir():  # by an interrupted run, perhaps divided into other files
            left.unlink() if left.is_file() else shutil.rmtree(left)
        return _export(config, model, scores, work.folder, work.progress)

    return run_stage(
        context,
        stage=STAGE,
        version=VERSION,
        inputs={"model": model, **{f"scores {number}": folder for number, folder in enumerate(scores)}},
        settings=config,
        body=body,
    )


def export_to(config: ExportConfig, model: Path, folder: Path) -> dict[str, Any]:
    """Export a finished model folder outside of a pipeline.

    Args:
        config: Type, size of files, verification.
        model: Model folder of a training stage or of combine.
        folder: The new folder; it appears whole or not at all.

    Returns:
        The facts of `export_report.json`.

    Raises:
        ConfigurationError: The folder exists, or as in `run_export`.
        InputError: As in `run_export`.
        StageError: The model folder is not finished, or as in `run_export`.
    """
    if os.path.lexists(folder):
        raise ConfigurationError(f"{folder} exists. Choose a folder that does not exist yet: nothing is overwritten.")
    check_files(model, read_manifest(model))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        facts = _export(config, model, (), temporary, Progress(STAGE))
        temporary.chmod(0o755)  # mkdtemp's own mode is for the owner alone
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return facts


def _export(
    config: ExportConfig, model: Path, scores: Sequence[Path], folder: Path, progress: Progress
) -> dict[str, Any]:
    # Imported here: a run that reuses the finished folder needs none of it.
    import torch

    from components.export.architecture import write_architecture
    from components.export.card import write_card
    from components.export.processing import write_processing
    from components.export.shards import write_shards
    from components.export.source import ModelSource
    from components.export.tensors import describe, plan_tensors
    from components.export.verify import verify_export
    from components.model.config import TORCH_DTYPES, StoredDtype
    from components.model.distributed import single_process
    from components.model.stock import check_stock
    from components.storage.atomic import write_json

    with single_process():
        source = ModelSource(model)
        if not config.custom_code:
            check_stock(source.config.projector, source.config.language.hidden_size, source.config.image.pixel_shuffle)
        own_dtype: StoredDtype = "bfloat16" if source.dtype == torch.bfloat16 else "float32"
        dtype = own_dtype if config.dtype == "auto" else config.dtype
        write_architecture(folder, source.config, source.tokenizer, dtype, custom_code=config.custom_code)
        control = write_processing(folder, source.config, source.tokenizer_folder, custom_code=config.custom_code)
        outline = source.outline(source.dtype)
        plan = plan_tensors(source.config, outline, source.reader(outline), module_names=config.custom_code)
        size = sum(group.size(TORCH_DTYPES[dtype]) for group in plan.groups)
        _check_space(folder, size)
        progress.start("exporting", len(plan.groups), "parameters")
        files = write_shards(folder, plan.groups, TORCH_DTYPES[dtype], config.max_shard_bytes, progress.update)
        verification = None
        if config.verify:
            verification = verify_export(source, folder, plan, config, TORCH_DTYPES[dtype], _started(progress))
    shapes = {name: shape for group in plan.groups for name, shape in zip(group.names, group.shapes, strict=True)}
    facts: dict[str, Any] = {
        "dtype": dtype,
        "custom_code": config.custom_code,
        "language_family": source.config.language.family,
        "vision_family": source.config.vision.family,
        "tensors": len(files),
        "files": len(set(files.values())),
        "bytes": size,
        "constants": len(plan.constants),
        "max_logit_difference": NOT_VERIFIED,
    }
    if verification is not None:
        facts |= vars(verification)
    write_card(folder, model, source, control, facts, scores)
    tensors = [
        {"name": name, "parameter": plan.sources[name], "shape": list(shapes[name]), "file": file}
        for name, file in files.items()
    ]
    write_json(folder / REPORT_FILE, {**facts, "tensors": tensors, "constants": describe(plan)})
    return facts


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StageError(
            f"The export needs {needed} bytes below {folder}, {free} are free. Free some space and run again."
        )


def _started(progress: Progress) -> Callable[[int, int], None]:
    """Return a callback that begins the activity with its first report, which knows the total."""

    def report(done: int, total: int) -> None:
        if done == 1:
            progress.start("verifying", total, "tensors")
        progress.update(done)

    return report
