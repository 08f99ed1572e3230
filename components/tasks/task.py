"""Tasks as data: what is asked about the held-out pictures, and which metrics judge the answers. Knows no kind."""

from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.data.prompt_text import PromptFormat

Step = Literal["strip", "first_line"]


class TaskPrompt(BaseModel):
    """How a sample is asked; which fields a template takes is up to the kind.

    Attributes:
        format: "plain" (the picture alone, as in pretraining; takes no words) or "instruct" (the model's chat template).
        template: The human turn.
        open_template: The human turn of questions without options, for kinds that have both sorts.
        option: One line of `{options}`: `{letter}` and `{text}`.
        hint: What becomes of `{hint}` in a template: a text with `{hint}` for samples that have one, nothing for others.
        answer: What the template asks for and the parser reads, the option's "letter" or its "text".
        pictures: Where pictures stand. The "first" of a question's pictures alone or "all" of them: before the text, whose marks
            `<image 1>` are taken out. "in_place": where the marks are, in the question and in its options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: PromptFormat
    template: str = ""
    open_template: str = ""
    option: str = "({letter}) {text}"
    hint: str = "{hint}\n"
    answer: Literal["letter", "text"] = "letter"
    pictures: Literal["first", "all", "in_place"] = "first"


class Published(BaseModel):
    """A figure of a known model, for orientation; in points.

    Attributes:
        model: The model.
        metric: The metric.
        value (points): Its value.
        source: Who published it, and where.
        note: What is otherwise than here, as another split; empty for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    metric: str
    value: float
    source: str = Field(min_length=1)
    note: str = ""


class Origin(BaseModel):
    """Where a benchmark's parts come from, for people.

    Attributes:
        data: Its dataset, with the split.
        prompt: Whose prompt it is.
        scoring: Whose program decides what is right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = ""
    prompt: str = ""
    scoring: str = ""


class Task(BaseModel):
    """One evaluation task; what its kind demands beyond this is checked where it is loaded (`loading.py`).

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
        reading: How answers are read, for kinds that know several ways; empty for the kind's first.
        metrics: Metrics that are computed.
        headline: The metric that stands for the task in gates and summaries.
        columns: Metrics that a table of several benchmarks shows; none for the headline.
        origin: Where its parts come from.
        published: Figures of known models.
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
    reading: str = ""
    metrics: tuple[str, ...] = Field(min_length=1)
    headline: str
    columns: tuple[str, ...] = ()
    origin: Origin = Origin()
    published: tuple[Published, ...] = ()

    @field_validator("dataset")
    @classmethod
    def _within_the_dataset(cls, dataset: str) -> str:
        path = PurePosixPath(dataset)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a file below the raw dataset folder, without '..'")
        return dataset

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.headline not in self.metrics:
            raise ValueError(f"headline: {self.headline!r} is not among the metrics {', '.join(self.metrics)}")
        unknown = sorted({*self.columns, *(figure.metric for figure in self.published)} - set(self.metrics))
        if unknown:
            raise ValueError(f"columns, published: {unknown[0]!r} is not among the metrics {', '.join(self.metrics)}")
        if self.prompt.format == "instruct" and not self.prompt.template:
            raise ValueError("prompt.template: the instruct format needs the human turn's text")
        return self

    @property
    def heading(self) -> str:
        """Its name for people."""
        return self.title or self.name.replace("_", " ").capitalize()

    def clean(self, text: str) -> str:
        """Return the prediction that decoded text stands for."""
        for step in self.postprocess:
            text = text.strip() if step == "strip" else text.partition("\n")[0].rstrip()
        return text
