"""Where the time of a training step goes.

    python -m tests.benchmarks.step_profile [--iterations 30]

Trains with the real trainer in real processes on gloo, and measures the parts of every step on the first rank: each
part without what it calls of the others, so that the shares add up. "laptop" is the preset's pretraining, alone and
at tensor parallel 2, and in fine-tuning's layout (data parallel 2, chats; captions are what is said in them);
"scaled-down" has the proportions of the full model (hidden 512, eight layers, 144 image tokens), with what the
reference recipe trains. Time between the steps (metrics, saving) is not in it.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.context import RunContext
from components.training.spec import TrainingSpec
from pipelines.preset_files import load_preset
from tests.support.layouts import Layout, train_in
from tests.support.model_config import SCALED_DOWN_LANGUAGE
from tests.support.small_chain import prepare

_RESULT = "profile.json"
_STEP = "step"
_WARM_UP_STEPS = 5
_REGIONS = (
    "data",
    "packing",
    "sharing batches",
    "counting",
    "pixels",
    "vision forward",
    "projector forward",
    "language forward",
    "logits and loss",
    "backward",
    "optimizer",
    "communication",
)
_DATA = ["data.scenes.pictures=600", "data.scenes.held_out_pictures=20"]
_SCALED_DOWN = [
    *SCALED_DOWN_LANGUAGE,
    "weights.vision.image_size=168",
    "weights.vision.patch_size=14",
    "weights.vision.hidden_size=128",
    "weights.vision.num_hidden_layers=6",
    "combine.projector.ffn_hidden_size=1792",
]
_PROJECTOR_ALONE = {"train_language": False, "train_vision": False, "global_batch_size": 4}
_SFT = {"train_language": True, "train_vision": False, "prompt_format": "instruct", "global_batch_size": 4}
_CASES: dict[str, tuple[list[str], dict[str, Any], Layout]] = {
    "laptop": ([], {}, Layout(1, 1)),
    "laptop, TP 2": ([], {}, Layout(2, 1)),
    "laptop, chats, DP 2": ([], {"prompt_format": "instruct"}, Layout(1, 2)),
    "scaled-down pretraining": (_SCALED_DOWN, _PROJECTOR_ALONE, Layout(1, 1)),
    "scaled-down SFT": (_SCALED_DOWN, _SFT, Layout(1, 1)),
    "scaled-down SFT, DP 2": (_SCALED_DOWN, _SFT, Layout(1, 2)),
}


class Stopwatch:
    """Measures nested regions, each without the regions within it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._open: list[str] = []
        self._times: dict[str, float] = defaultdict(float)
        self._last = 0.0

    def watch(self, owner: Any, name: str, region: str) -> None:
        """Measure every call of a function or method as part of a region."""
        function: Callable[..., Any] = getattr(owner, name)

        def measured(*arguments: Any, **keywords: Any) -> Any:
            with self._region(region):
                return function(*arguments, **keywords)

        setattr(owner, name, measured)

    @contextmanager
    def _region(self, region: str) -> Iterator[None]:
        self._charge()
        self._open.append(region)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()
            if region == _STEP:
                self.steps.append(dict(self._times))
                self._times.clear()

    def _charge(self) -> None:
        """Put the time since the last change on the account of the innermost region."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self._times[self._open[-1]] += now - self._last
        self._last = now


def main() -> None:
    """Profile every case and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--cases", nargs="*", default=list(_CASES), choices=list(_CASES))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    print(f"| case | step, ms | {' | '.join(_REGIONS)} | rest |\n|{'---|' * (len(_REGIONS) + 3)}", flush=True)
    for name in arguments.cases:
        profile = _profile(name, arguments.iterations, folder)
        whole = sum(profile.values())
        shares = [f"{profile.get(region, 0.0) / whole:.1%}" for region in [*_REGIONS, _STEP]]
        print(f"| {name} | {whole * 1000:.0f} | {' | '.join(shares)} |", flush=True)
    shutil.rmtree(folder)


def _profile(name: str, iterations: int, folder: Path) -> dict[str, float]:
    """Train one case and return the mean seconds of every region per step."""
    overrides, changes, layout = _CASES[name]
    config = load_preset("laptop", [*_DATA, *overrides])
    workspace = folder / ("scaled" if overrides else "laptop")
    prepared = prepare(config, RunContext(run_id="benchmark", run_name="benchmark", workspace=workspace))
    fixed = {"iterations": iterations, "evaluation_interval": 0, "save_interval": iterations}
    spec = TrainingSpec(
        stage=name,
        recipe=config.pretrain.recipe.model_copy(update={**changes, **fixed}),
        tensor_parallel=layout.tensor_parallel,
        model_folder=prepared.model,
        dataset_folder=prepared.dataset,
        output_folder=folder,
    )
    output = train_in(layout, spec, folder / name.replace(" ", "-"), _train_watched)
    steps: list[dict[str, float]] = json.loads((output / _RESULT).read_text())[_WARM_UP_STEPS:]
    return {region: sum(step.get(region, 0.0) for step in steps) / len(steps) for region in (*_REGIONS, _STEP)}


def _train_watched(spec: TrainingSpec) -> None:
    from components.data.loader import TrainingLoader
    from components.model.language import LanguageModel
    from components.model.projector import Projector
    from components.model.vision_tower import VisionTower
    from components.training import data, trainer
    from components.training.optimizer import MasterWeightAdamW

    watch = Stopwatch()
    for owner, name, region in (
        (trainer._Training, "_step", _STEP),
        (TrainingLoader, "__next__", "data"),
        (data, "pack", "packing"),
        (trainer, "share_batches", "sharing batches"),
        (trainer, "step_work", "counting"),
        (trainer, "normalise", "pixels"),
        (VisionTower, "forward", "vision forward"),
        (Projector, "forward", "projector forward"),
        (LanguageModel, "embed", "language forward"),
        (LanguageModel, "run_packed", "language forward"),
        (LanguageModel, "token_losses", "logits and loss"),
        (torch.Tensor, "backward", "backward"),
        (MasterWeightAdamW, "step", "optimizer"),
        (torch.distributed, "all_reduce", "communication"),
        (torch.distributed, "broadcast", "communication"),
        (torch.distributed, "broadcast_object_list", "communication"),
    ):
        watch.watch(owner, name, region)
    trainer.train(spec)
    if os.environ["RANK"] == "0":
        (spec.output_folder / _RESULT).write_text(json.dumps(watch.steps))


if __name__ == "__main__":
    main()
