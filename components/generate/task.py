"""Tasks as data: what is asked about the held-out pictures, and how the answers are scored."""

import string
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import ConfigurationError
from components.storage.checksum import content_key

TASKS_FOLDER = Path(__file__).parent / "tasks"

LETTERS = string.ascii_uppercase

CAPTIONING_METRICS = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor")
MULTIPLE_CHOICE_METRICS = ("accuracy",)

Kind = Literal["captioning", "multiple_choice"]
Step = Literal["strip", "first_line"]

_FIELDS: dict[str, tuple[str, ...]] = {"captioning": (), "multiple_choice": ("question", "options")}
_OPTION_FIELDS = ("letter", "text")


class TaskPrompt(BaseModel):
    """How a sample is asked.

    Attributes:
        format: "plain" (the picture alone, as in pretraining; takes no words) or "instruct" (Mistral's turns).
        template: The human turn. Multiple choice fills in `{question}` and `{options}`.
        option: One line of `{options}`: `{letter}` and `{text}`.
        answer: Multiple choice: what the template asks for and the parser reads, the option's "letter" or its "text".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["plain", "instruct"]
    template: str = ""
    option: str = "({letter}) {text}"
    answer: Literal["letter", "text"] = "letter"


class Task(BaseModel):
    """One evaluation task.

    Attributes:
        name: Task name; part of the stage's folder.
        version: Version of prompt and post-processing, published with the scores.
        kind: What the ground truth looks like and which metrics there are.
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
    version: int = Field(ge=1)
    kind: Kind
    dataset: str = Field(min_length=1)
    prompt: TaskPrompt
    max_new_tokens: int = Field(ge=1)
    postprocess: tuple[Step, ...] = ("strip",)
    metrics: tuple[str, ...] = Field(min_length=1)
    headline: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = CAPTIONING_METRICS if self.kind == "captioning" else MULTIPLE_CHOICE_METRICS
        unknown = sorted(set(self.metrics) - set(known))
        if unknown:
            raise ValueError(f"metrics: {', '.join(unknown)} is not one of {', '.join(known)} ({self.kind})")
        if self.headline not in self.metrics:
            raise ValueError(f"headline: {self.headline!r} is not among the metrics {', '.join(self.metrics)}")
        if self.prompt.format == "plain" and (self.kind != "captioning" or self.prompt.template):
            raise ValueError("prompt: the plain format shows the picture alone and can ask nothing; use instruct")
        if self.prompt.format == "instruct" and not self.prompt.template:
            raise ValueError("prompt.template: the instruct format needs the human turn's text")
        _check_fields("prompt.template", self.prompt.template, _FIELDS[self.kind])
        if self.kind == "multiple_choice":
            _check_fields("prompt.option", self.prompt.option, _OPTION_FIELDS)
        return self

    @property
    def identity(self) -> str:
        """Name, version and content key: what the predictions of one task have in common."""
        return f"{self.name}@{self.version}:{content_key(self.model_dump(mode='json'))}"

    def prompt_text(self, question: str = "", options: tuple[str, ...] = ()) -> str:
        """Return the human turn for one sample."""
        lines = [
            self.prompt.option.format(letter=letter, text=text)
            for letter, text in zip(LETTERS[: len(options)], options, strict=True)
        ]
        if self.kind == "captioning":
            return self.prompt.template
        return self.prompt.template.format(question=question, options="\n".join(lines))

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


def _check_fields(where: str, template: str, known: tuple[str, ...]) -> None:
    """Check that a template uses exactly the known fields, without conversions or indices."""
    if not known:
        return
    used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if used != set(known):
        expected = ", ".join(f"{{{field}}}" for field in known)
        raise ValueError(f"{where}: must use {expected}, each; it uses {', '.join(sorted(used)) or 'none'}")
