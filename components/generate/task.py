"""Tasks as data: what is asked about the held-out pictures, and how the answers are scored."""

from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.errors import ConfigurationError
from components.storage.checksum import content_key
from components.tasks.kind import Kind
from components.tasks.registry import find_kind

TASKS_FOLDER = Path(__file__).parent / "tasks"

Step = Literal["strip", "first_line"]


class TaskPrompt(BaseModel):
    """How a sample is asked; which fields a template takes is up to the kind.

    Attributes:
        format: "plain" (the picture alone, as in pretraining; takes no words) or "instruct" (Mistral's turns).
        template: The human turn.
        open_template: The human turn of questions without options, for kinds that have both sorts.
        option: One line of `{options}`: `{letter}` and `{text}`.
        answer: What the template asks for and the parser reads, the option's "letter" or its "text".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["plain", "instruct"]
    template: str = ""
    open_template: str = ""
    option: str = "({letter}) {text}"
    answer: Literal["letter", "text"] = "letter"


class Task(BaseModel):
    """One evaluation task.

    Attributes:
        name: Task name; part of the stage's folder.
        title: Its name for people; empty to make it of `name`.
        version: Version of prompt and post-processing, published with the scores.
        kind: How ground truth is read, asked about, parsed and scored; see components/tasks/README.md.
        dataset: Ground truth file in the raw dataset folder.
        prompt: How a sample is asked.
        max_new_tokens: Most tokens of an answer; it ends earlier at `</s>`.
        postprocess: Steps from decoded text to prediction, in order: "strip" removes blanks around it, "first_line"
            keeps what stands before the first line break.
        metrics: Metrics that are computed.
        headline: The metric that stands for the task in gates and summaries.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = ""
    version: int = Field(ge=1)
    kind: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    prompt: TaskPrompt
    max_new_tokens: int = Field(ge=1)
    postprocess: tuple[Step, ...] = ("strip",)
    metrics: tuple[str, ...] = Field(min_length=1)
    headline: str

    @field_validator("dataset")
    @classmethod
    def _within_the_dataset(cls, dataset: str) -> str:
        path = PurePosixPath(dataset)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a file below the raw dataset folder, without '..'")
        return dataset

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = self.rules
        unknown = sorted(set(self.metrics) - set(kind.metrics))
        if unknown:
            raise ValueError(f"metrics: {', '.join(unknown)} is not one of {', '.join(kind.metrics)} ({self.kind})")
        if self.headline not in self.metrics:
            raise ValueError(f"headline: {self.headline!r} is not among the metrics {', '.join(self.metrics)}")
        if self.prompt.format == "instruct" and not self.prompt.template:
            raise ValueError("prompt.template: the instruct format needs the human turn's text")
        kind.check(self)
        return self

    @property
    def rules(self) -> Kind:
        """What the task's kind does."""
        return find_kind(self.kind)

    @property
    def identity(self) -> str:
        """Name, version and content key, the kind's version included: what the predictions of one task have in common."""
        content = {**self.model_dump(mode="json"), "kind_version": self.rules.version}
        return f"{self.name}@{self.version}:{content_key(content)}"

    def clean(self, text: str) -> str:
        """Return the prediction that decoded text stands for."""
        for step in self.postprocess:
            text = text.strip() if step == "strip" else text.partition("\n")[0].rstrip()
        return text


def load_task(name: str) -> Task:
    """Load a task by its name, or from a YAML file.

    Args:
        name: A name in this package's `tasks` folder, or the path of a `.yaml` file.

    Raises:
        ConfigurationError: There is no such task, or the file is not a task.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS_FOLDER / f"{name}.yaml"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in TASKS_FOLDER.glob("*.yaml")))
        raise ConfigurationError(
            f"There is no task {name!r} ({path}). Known are {known}, or the path of a .yaml file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The task {path} is not YAML: {error}") from error
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'task'}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"The task {path} can't be used: {problems}") from error


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
