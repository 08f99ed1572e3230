"""The command for what a run can start from: presets."""

import argparse
from typing import TYPE_CHECKING, Any

from pipelines.cli.arguments import CommandGroup
from pipelines.cli.printing import fact_table, literal

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from pipelines.config import RunConfig
    from pipelines.estimate import RunEstimate

_GIB = 1 << 30
_GB = 10**9


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    presets = group.add("presets", _presets, "list the shipped presets with size, GPUs, memory, hours and sources")
    presets.add_argument("--json", action="store_true", help="for programs")


def _presets(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from pipelines.estimate import estimate_run
    from pipelines.preset_files import load_preset, preset_names

    configs = {name: load_preset(name) for name in preset_names()}
    estimates = {name: estimate_run(config) for name, config in configs.items()}
    if options.json:
        print(json.dumps([_described(name, config, estimates[name]) for name, config in configs.items()], indent=2))
        return 0
    console = Console()
    for name, config in configs.items():
        console.print(literal(name, "bold"), literal(config.about.summary, "dim"))
        console.print(fact_table(_facts(config, estimates[name])))
        console.print()
    console.print(literal("Estimates of docs/models.md; vlm doctor --preset NAME says whether one fits here.", "dim"))
    return 0


def _facts(config: "RunConfig", estimate: "RunEstimate") -> dict[str, str]:
    from components.training.devices import gpu_memory
    from pipelines.estimate import UTILISATION

    gpu = config.about.gpu
    held = gpu_memory(gpu) if gpu else None
    memory = ", ".join(f"{stage.stage} {stage.memory.total / _GIB:.1f}" for stage in estimate.stages)
    hours = ", ".join(f"{stage.stage} {stage.hours:.1f}" for stage in estimate.stages if stage.hours is not None)
    gpus = max(stage.gpus for stage in estimate.stages)
    on_gpus = bool(config.cluster.gpus)
    data = f"{config.about.data_bytes / _GB:.0f} GB of data, " if config.about.data_bytes else ""
    return {
        "parameters": _parameters(estimate),
        "GPUs": f"{gpus} x {gpu}" if on_gpus else "none",
        "memory": f"{memory} GiB of each GPU{f', which has {held / _GIB:.1f}' if held else ''}" if on_gpus else "",
        "hours": f"{hours} at {UTILISATION:.0%} of the peak" if hours else "",
        "disk": f"{data}{estimate.disk / _GB:.1f} GB of models and checkpoints",
        "models": f"{config.weights.language_source}, {config.weights.vision_source}",
        "data": ", ".join(_data(config)),
        "recipe": ", ".join(config.about.recipe),
    }


def _parameters(estimate: "RunEstimate") -> str:
    counts = estimate.parameters
    parts = ", ".join(f"{part} {_count(counts[part])}" for part in ("language", "vision", "projection"))
    return f"{_count(sum(counts.values()))} ({parts}); {estimate.model.image.tokens} tokens a picture"


def _count(number: int) -> str:
    return next(
        f"{number / size:.3g} {name}" for size, name in ((_GB, "B"), (10**6, "M"), (1000, "k")) if number >= size
    )


def _data(config: "RunConfig") -> list[str]:
    named = [part.annotations for part in (config.data.pretrain, config.data.sft) if part is not None]
    return named or [config.data.source]


def _described(name: str, config: "RunConfig", estimate: "RunEstimate") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": name,
        **config.about.model_dump(),
        "models": [config.weights.language_source, config.weights.vision_source],
        "data": _data(config),
        "parameters": estimate.parameters,
        "image_tokens": estimate.model.image.tokens,
        "disk_bytes": estimate.disk,
        "host_memory_bytes": estimate.host_memory,
        "stages": [{**asdict(stage), "memory_bytes": stage.memory.total} for stage in estimate.stages],
    }
