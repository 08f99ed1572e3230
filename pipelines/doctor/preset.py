"""Whether a preset fits this machine: GPUs and their memory, host memory, disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from components.errors import ConfigurationError
from pipelines.config import TRAINING_STAGES, RunConfig
from pipelines.doctor.finding import Finding, Mark
from pipelines.estimate import RunEstimate, estimate_run

HEADROOM = 1.05
"""What an allocator's fragments take beside the tensors."""

_GIB = 1 << 30
_GB = 10**9


def preset_findings(config: RunConfig, workspace: Path) -> Iterator[Finding]:
    """Tell what of a preset's needs is here.

    Args:
        config: The preset.
        workspace: Where its outputs would go.
    """
    backends = {getattr(config, stage).launch.backend for stage in TRAINING_STAGES} - {"local"}
    if backends:
        kind = ", ".join(sorted(backends))
        yield Finding(
            "training",
            Mark.FACT,
            f"by {kind}, on a cluster",
            "vlm doctor --cluster; here with --set STAGE.launch.backend=local",
        )
    try:
        estimate = estimate_run(config)
    except ConfigurationError as error:
        yield Finding("model", Mark.UNKNOWN, str(error))
        return
    yield Finding(
        "model",
        Mark.FACT,
        f"{sum(estimate.parameters.values()) / _GB:.3g} G parameters, {estimate.model.image.tokens} tokens a picture",
    )
    if config.cluster.gpus:
        yield from _gpus(config, estimate)
    yield _memory(estimate)
    yield _disk(config, estimate, workspace)


def _gpus(config: RunConfig, estimate: RunEstimate) -> Iterator[Finding]:
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    needed = max(getattr(config, stage).launch.processes_per_node for stage in TRAINING_STAGES)
    nodes = max(getattr(config, stage).launch.nodes for stage in TRAINING_STAGES)
    found = f"{here} here, {needed} needed{f' on each of {nodes} machines' if nodes > 1 else ''}"
    advice = "use a machine or a cluster that has them, or a smaller preset: vlm presets"
    yield Finding("GPUs", Mark.needed(here >= needed), found, "" if here >= needed else advice)
    if not here:
        return
    smallest = min(torch.cuda.get_device_properties(number).total_memory for number in range(here))
    for stage in estimate.stages:
        fits = stage.memory.total * HEADROOM <= smallest
        yield Finding(
            f"{stage.stage}: GPU memory",
            Mark.needed(fits),
            f"{stage.memory.total / _GIB:.1f} GiB needed, {smallest / _GIB:.1f} GiB on the smallest GPU",
            "" if fits else _less_memory(config, stage.stage),
        )


def _less_memory(config: RunConfig, stage: str) -> str:
    training = getattr(config, stage)
    ways = []
    if training.memory.recompute != "full":
        ways.append(f"{stage}.memory.recompute=full")
    if training.launch.data_parallel > 1 and not training.memory.shard_optimizer:
        ways.append(f"{stage}.memory.shard_optimizer=true")
    ways += [f"a smaller {stage}.recipe.sequence_length", f"a larger {stage}.launch.tensor_parallel"]
    return f"set {', or '.join(ways)}"


def _memory(estimate: RunEstimate) -> Finding:
    available, needed = psutil.virtual_memory().available, estimate.host_memory
    good = available >= needed
    return Finding(
        "memory",
        Mark.needed(good),
        f"{available / _GIB:.1f} GiB available, {needed / _GIB:.1f} GiB for the copy of a checkpoint",
        "" if good else "STAGE.memory.background_saving=false needs no copy",
    )


def _disk(config: RunConfig, estimate: RunEstimate, workspace: Path) -> Finding:
    folder = next(path for path in (workspace, *workspace.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Finding("workspace", Mark.BAD, f"{folder} can't be written", "choose another with --workspace")
    free, needed = shutil.disk_usage(folder).free, config.about.data_bytes + estimate.disk
    good = free >= needed
    return Finding(
        "workspace",
        Mark.needed(good),
        f"{free / _GB:.0f} GB free at {workspace}, {needed / _GB:.0f} GB needed (data {config.about.data_bytes / _GB:.0f})",
        "" if good else "free some or use --workspace",
    )
