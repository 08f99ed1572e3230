"""From a task's name to the task, checked against its kind, and to its samples."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from components.errors import ConfigurationError, InputError
from components.metrics.registry import find_metric
from components.storage.checksum import content_key
from components.tasks.kind import Kind
from components.tasks.picture_marks import in_place, without_marks
from components.tasks.registry import find_kind
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task
from components.yaml_text import parse_yaml

BENCHMARKS_FOLDER = Path(__file__).parent / "benchmarks"


def task_names() -> list[str]:
    """Return the names of this package's tasks."""
    return sorted(file.stem for file in BENCHMARKS_FOLDER.glob("*.yaml"))


def load_task(name: str) -> Task:
    """Load a task by its name, or from a YAML file, and check that it fits its kind.

    Args:
        name: A name in this package's `benchmarks` folder, or the path of a `.yaml` file.

    Raises:
        ConfigurationError: There is no such task, or the file is not a task.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else BENCHMARKS_FOLDER / f"{name}.yaml"
    try:
        content: Any = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"There is no task {name!r} ({path}). Known are {', '.join(task_names())}, or the path of a .yaml file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The task {path} is not YAML: {error}") from error
    try:
        task = Task.model_validate(content)
        _check_fits_kind(task)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'task'}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"The task {path} can't be used: {problems}") from error
    except ValueError as error:
        raise ConfigurationError(f"The task {path} can't be used: {error}") from error
    return task


def check_task_name(name: str) -> str:
    """Return the name of a task or the path of its file, if it can be one.

    A file may be on another machine: it is read where the task runs.

    Raises:
        ValueError: It is neither a known name nor the path of a `.yaml` file, or a file that is here is no task.
    """
    if not name.endswith((".yaml", ".yml")) or Path(name).is_file():
        try:
            load_task(name)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
    return name


def task_identity(task: Task) -> str:
    """Return name, version and content key, the kind's version included: what the predictions of one task have in common."""
    known = task.model_dump(mode="json", exclude={"columns", "origin", "published"})
    content = {**known, "kind_version": find_kind(task.kind).version}
    return f"{task.name}@{task.version}:{content_key(content)}"


def load_samples(raw: Path, task: Task, limit: int = 0) -> list[HeldOutSample]:
    """Read the ground truth of a task.

    Args:
        raw: Raw dataset folder.
        task: The task.
        limit: Return only the first samples; 0 for all.

    Returns:
        Samples in the file's order, with the prompts that are put to the model.

    Raises:
        InputError: The file is missing, has another layout, or repeats an id.
    """
    path = raw / task.dataset
    if not path.is_file():
        raise InputError(
            f"The task {task.name} needs {path}, which does not exist. Add the file to the raw dataset folder: "
            "components/download/README.md says how each comes there."
        )
    kind = find_kind(task.kind)
    try:
        samples = kind.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The ground truth {path} can't be read: {error}") from error
    if not samples:
        raise InputError(f"{path} holds no samples.")
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise InputError(f"{path} has several samples with the same id: {', '.join(repeated[:5])}. Ids must be unique.")
    wanted = samples[:limit] if limit else samples
    return [_asked(kind, task, sample) for sample in wanted]


def _asked(kind: Kind, task: Task, sample: HeldOutSample) -> HeldOutSample:
    """Return a sample with its prompt, and the pictures that the prompt shows."""
    if task.prompt.pictures == "in_place":
        prompt, shown = in_place(kind.ask(task, sample), sample.images or (sample.image,))
        return replace(sample, prompt=prompt, shown=shown)
    bare = replace(
        sample, question=without_marks(sample.question), options=tuple(without_marks(text) for text in sample.options)
    )
    return replace(sample, prompt=kind.ask(task, bare), shown=sample.images if task.prompt.pictures == "all" else ())


def _check_fits_kind(task: Task) -> None:
    kind = find_kind(task.kind)
    if task.reading and task.reading not in kind.readings:
        ways = ", ".join(kind.readings) or "none: leave it out"
        raise ValueError(f"reading: {task.reading!r} is not one of the ways that {task.kind} reads answers in ({ways})")
    unknown = sorted(set(task.metrics) - set(kind.metrics))
    if unknown:
        raise ValueError(f"metrics: {', '.join(unknown)} is not one of {', '.join(kind.metrics)} ({task.kind})")
    directions = {name: find_metric(name).direction for name in task.metrics}
    if directions[task.headline] == "neither":
        raise ValueError(
            f"headline: neither a higher nor a lower {task.headline} is better, so that it can't stand for the task"
        )
    kind.check(task)
