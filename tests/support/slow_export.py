"""An export slow enough to be killed between two of its files."""

import time
from pathlib import Path
from typing import IO

import torch

from components.context import RunContext
from components.export import shards
from components.export.config import ExportConfig
from components.export.stage import export_to, run_export


def export_slowly(config: ExportConfig, model: Path, to: RunContext | Path) -> None:
    """Export as a stage of a run, or into a folder as the command does, in a process of its own."""
    write_group = shards._write_group

    def slow(stream: IO[bytes], group: shards.TensorGroup, dtype: torch.dtype) -> None:
        time.sleep(0.1)
        write_group(stream, group, dtype)

    shards._write_group = slow
    if isinstance(to, RunContext):
        run_export(to, config, model)
    else:
        export_to(config, model, to)
