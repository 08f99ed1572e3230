"""A compiled pipeline in the child process that `vlm run` starts for it."""

import os
import subprocess
import sys
from pathlib import Path

from components.runs.folder import RUN_FOLDER_VARIABLE, RUN_ID_VARIABLE
from tests.support.paths import ROOT


def run_local_worker(folder: Path, run_id: str) -> subprocess.CompletedProcess[str]:
    """Execute `<folder>/pipeline.yaml` in processes of this machine; its output is captured."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.local_worker", str(folder), "process"],
        cwd=folder,
        env={
            **os.environ,
            RUN_ID_VARIABLE: run_id,
            RUN_FOLDER_VARIABLE: str(folder.resolve()),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
