"""What a stage costs that was finished before: on a cluster it still has a pod, which must not load what it does not need."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

HEAVY = ("torch", "megatron", "transformers", "mlflow", "pandas", "numpy", "scipy", "PIL", "kubernetes")

REUSING = f"""
import sys
from pathlib import Path
from pydantic import BaseModel

import components.combine.stage
import components.download.stage
import components.energon_split.stage
import components.evaluate.stage
import components.export.stage
import components.generate.stage
import components.report.stage
import components.training.stage
import components.wds_conversion.stage
import components.weight_conversion.stage
from components.context import RunContext
from components.stage.runner import run_stage

class Settings(BaseModel):
    size: int = 1

workspace = Path(sys.argv[1])
context = RunContext(run_id=sys.argv[2], run_name="r", workspace=workspace, tracking_uri=f"sqlite:///{{workspace}}/mlflow.db")
output = run_stage(context, stage="combine", version=1, inputs={{}}, settings=Settings(), body=lambda work: {{"parts": 2}})
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(output.reused, *loaded)
"""


def reuse(workspace: Path, run_id: str, **environment: str) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", REUSING, str(workspace), run_id],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.splitlines()[-1].split()


def test_a_reused_stage_loads_neither_what_works_nor_mlflow(tmp_path: Path) -> None:
    assert reuse(tmp_path, "first", VLM_TRACKING_SENDER="another") == ["False"]
    assert reuse(tmp_path, "second") == ["True"]
