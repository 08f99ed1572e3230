"""What `vlm evaluate` asks a model: tasks, by the settings and on the data of a run or a preset, so that scores compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset
from components.errors import ConfigurationError, InputError
from components.runs.find import Places, Run, find_run, find_stage
from components.runs.folder import is_run_folder, run_folders
from components.runs.reference import newest_first
from components.stage.manifest import MANIFEST_NAME
from components.tasks.loading import load_task
from pipelines.config import EvaluationConfig, RunConfig
from pipelines.preset_files import DEFAULT_PRESET, apply_overrides, read_preset, validate

DATASET_STAGE = "download/dataset"


@dataclass(frozen=True)
class Ground:
    """Data to ask about, and the settings that come with it.

    Attributes:
        settings: A whole run's settings; the evaluations among them say how tasks are asked.
        experiment: MLflow experiment of the runs that it is compared with.
        raw: Finished raw dataset folder; None where it is downloaded first.
        said: Where it comes from, for people.
    """

    settings: Mapping[str, Any]
    experiment: str
    raw: Path | None
    said: str

    def place(self, context: RunContext) -> Path:
        """Return the raw dataset folder, downloaded now or before.

        Raises:
            InputError: As `run_download_dataset`.
            StageError: As `run_download_dataset`.
        """
        if self.raw is not None:
            return self.raw
        return run_download_dataset(context, DatasetConfig.model_validate(self.settings["data"])).folder


def ground_of_preset(preset: str, overrides: Sequence[str]) -> Ground:
    """Return the data and evaluations of a preset.

    Raises:
        ConfigurationError: The preset, or an override, can't be.
    """
    tree = apply_overrides(read_preset(preset), overrides)
    config = validate(tree, f"preset {preset}")
    return Ground(config.model_dump(mode="json"), config.tracking.experiment, None, f"preset {preset}")


def find_ground(reference: str, places: Places, model_run: Run | None) -> Ground:
    """Return the data that a reference names: a raw dataset folder, or a run; without one the model's run, else the newest.

    Args:
        reference: What was named; empty for nothing.
        places: Where runs are looked for.
        model_run: The run that the model comes from; None for none.

    Raises:
        InputError: There is no such data.
    """
    path = Path(reference)
    if reference and (path / MANIFEST_NAME).is_file() and not is_run_folder(path):
        tree = {**read_preset(DEFAULT_PRESET), "evaluations": {}}
        return Ground(tree, str(tree["tracking"]["experiment"]), path.absolute(), str(path))
    if reference:
        return _ground_of_run(find_run(reference, places))
    if model_run is not None:
        return _ground_of_run(model_run)
    for folder in newest_first(run_folders(places.workspace)):
        run = find_run(folder.run_id, places)
        found = find_stage(run, DATASET_STAGE)
        if found is not None and found.folder is not None and folder.settings():
            return _ground_of_run(run)
    raise InputError(
        f"No run in {places.workspace} has data to ask about. Name a run or a raw dataset folder with --data, or a preset whose data is "
        "downloaded with --preset."
    )


def _ground_of_run(run: Run) -> Ground:
    found = find_stage(run, DATASET_STAGE)
    if found is None or found.folder is None:
        raise InputError(
            f"The raw dataset of the run {run.run_id} is not here: its stage {DATASET_STAGE} left no folder."
        )
    settings = run.here().settings()
    if not settings.get("evaluations"):
        raise InputError(
            f"The settings of the run {run.run_id} are not here. Name the folder {found.folder} with --data."
        )
    experiment = str(settings.get("tracking", {}).get("experiment", "vlm-pipelines"))
    return Ground(settings, experiment, found.folder, f"run {run.run_id}")


def choose_examinations(
    ground: Ground, wanted: Sequence[str], overrides: Sequence[str], limit: int | None = None
) -> dict[str, EvaluationConfig]:
    """Return what is asked: an evaluation of the data's settings is called and asked as there, another task by its own name.

    Gates are left out, since they are meant for the model that they were written for, and so is how a GPU's processes are divided.

    Args:
        ground: Data and settings.
        wanted: Names of its evaluations, of tasks, or paths of tasks' files; none for all of its evaluations.
        overrides: `evaluations.NAME.KEY=VALUE`; they have the last word.
        limit: Samples of each; None for as many as the settings say.

    Raises:
        ConfigurationError: There is no such task, or nothing to ask.
    """
    known: Mapping[str, Any] = ground.settings.get("evaluations", {})
    chosen: dict[str, Any] = {}
    for name in wanted or list(known):
        of_task = [key for key, entry in known.items() if entry["generate"]["task"] == name]
        if name in known or len(of_task) == 1:
            key = name if name in known else of_task[0]
            chosen[key] = _as_asked(known[key])
        else:
            chosen[load_task(name).name] = {"model": "sft", "generate": {"task": name}, "evaluate": {}}
    if not chosen:
        raise ConfigurationError(
            "Nothing is asked: name tasks with --task, as --task captioning,mmmu. `vlm tasks` lists them."
        )
    if limit is not None:
        for entry in chosen.values():
            entry["generate"] = {**entry["generate"], "limit": limit}
    tree = {**ground.settings, "evaluations": chosen}
    config = validate(apply_overrides(tree, overrides), "this evaluation")
    return _none_lost(config, chosen)


def _none_lost(config: RunConfig, chosen: Mapping[str, Any]) -> dict[str, EvaluationConfig]:
    unknown = sorted(set(config.evaluations) - set(chosen))
    if unknown:
        raise ConfigurationError(f"{unknown[0]} is not asked for: name it with --task.")
    return dict(config.evaluations)


def _as_asked(entry: Mapping[str, Any]) -> dict[str, Any]:
    generate = {
        name: value
        for name, value in entry["generate"].items()
        if name not in ("partitions", "tensor_parallel", "processes_per_node")
    }
    evaluate = {
        name: value for name, value in (entry.get("evaluate") or {}).items() if name not in ("gates", "gate_partial")
    }
    return {"model": "sft", "generate": generate, "evaluate": evaluate}
