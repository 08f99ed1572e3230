"""Training checkpoints that can't be read stop the run before anything is restored."""

import json
from pathlib import Path
from typing import cast

import pytest

from components.errors import StageError
from components.model.vlm import VisionLanguageModel
from components.training.checkpoints import load_checkpoint
from components.training.optimizer import MasterWeightAdamW


@pytest.mark.parametrize("missing", ["counters.json", "loader_dp1.bin"])
def test_missing_part_stops_the_run(tmp_path: Path, missing: str) -> None:
    (tmp_path / "counters.json").write_text(json.dumps({"step": 3, "samples": 24, "tokens": 9, "data_parallel": 2}))
    for rank in range(2):
        (tmp_path / f"loader_dp{rank}.bin").write_bytes(b"state")
    (tmp_path / missing).unlink()
    nothing = cast(VisionLanguageModel, None), cast(MasterWeightAdamW, None)
    with pytest.raises(StageError, match=rf"can't be read.*{missing}.*Delete it to resume from the one before"):
        load_checkpoint(tmp_path, *nothing, seed=0)
