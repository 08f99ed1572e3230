"""What a stage costs that was finished before: `python -m tests.benchmarks.reused_stage`.

On a cluster it has a pod of its own: a process that finds the folder, writes down for MLflow what was found, and ends. Measured is that
process, without Kubeflow Pipelines' executor around it: `download/dataset`'s code, a database for MLflow.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.paths import ROOT

_TIMES = 5
_STAGE = """
import sys
from pathlib import Path

from pydantic import BaseModel

import components.download.stage
from components.context import RunContext
from components.stage.runner import run_stage

class Settings(BaseModel):
    size: int = 1

workspace = Path(sys.argv[1])
context = RunContext(run_id=sys.argv[2], run_name="r", workspace=workspace, tracking_uri=f"sqlite:///{workspace}/mlflow.db")
run_stage(context, stage="combine", version=1, inputs={}, settings=Settings(), body=lambda work: {"parts": 2})
"""


def main() -> None:
    """Measure, and print a line for each time."""
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), "first")
        for number in range(_TIMES):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            _run(Path(folder), f"again-{number}")
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"reused: {wall:.2f} s, {cpu:.2f} s of CPU", flush=True)


def _run(workspace: Path, run_id: str) -> None:
    subprocess.run(
        [sys.executable, "-c", _STAGE, str(workspace), run_id],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    main()
