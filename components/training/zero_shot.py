"""Evaluation while training: the model as it is describes held-out pictures, which are scored and shown.

It draws no random numbers and leaves the model as it was: a run with it has the losses of a run without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from components.data.packing import IGNORED_LABEL, EncodedSample, pictures_within
from components.data.tokenizer import ChatTokenizer
from components.errors import StageError
from components.model.decoding import generate
from components.model.distributed import ParallelState, on_every_rank
from components.model.vlm import VisionLanguageModel
from components.pages.page import render_page
from components.pages.pictures import data_uri, thumbnail
from components.storage.atomic import write_text
from components.tasks.kind import POINTS
from components.tracking.tracker import StageTracker
from components.training.zero_shot_texts import ZERO_SHOT_FOLDER, Described, step_path, write_texts

METRIC = "zero_shot_cider"
MAX_NEW_TOKENS = 64
_BATCH_SIZE = 16
_TEMPLATE = Path(__file__).parent / "templates" / "zero_shot.html.j2"
_SAMPLES_LOOKED_AT = 20  # times those that are wanted: validation splits hold texts too


@dataclass(frozen=True)
class Shown:
    """What a page shows of one held-out sample.

    Attributes:
        question: Text before the answer; empty where the picture stands alone.
        answer: The sample's first answer.
        picture: What the model sees, as a JPEG data URI.
    """

    question: str
    answer: str
    picture: str


@dataclass(frozen=True)
class ZeroShotView:
    """What the template shows, each sample with the model's text; see `templates/zero_shot.html.j2`."""

    title: str
    samples: list[tuple[Shown, str]]


class ZeroShot:
    """Lets the model describe the same held-out pictures again and again; all ranks build and call it.

    Args:
        samples: This data-parallel rank's part of the validation split, on every tensor-parallel rank.
        count: Pictures over all data-parallel ranks.
        tokenizer: The model's tokenizer.
        parallel: Where this process stands.
        output: Gets `zero_shot/step_0000500.html`, and the texts alone as `.json`.
        title: Heading of the pages.

    Raises:
        StageError: There is no picture among the samples looked at.
    """

    def __init__(
        self,
        samples: Iterable[EncodedSample],
        count: int,
        *,
        tokenizer: ChatTokenizer,
        parallel: ParallelState,
        output: Path,
        title: str,
    ) -> None:
        share = len(range(parallel.data_rank, count, parallel.data_parallel))
        looked_at = (ask(sample, tokenizer) for sample in islice(samples, _SAMPLES_LOOKED_AT * share))
        asked = list(islice((found for found in looked_at if found is not None), share))
        self._prompts = [prompt for prompt, _ in asked]
        self._tokenizer, self._parallel, self._output, self._title = tokenizer, parallel, output, title
        self._shown = self._gather([shown for _, shown in asked])
        if not self._shown:
            raise StageError(
                f"The validation split has no picture among its first {_SAMPLES_LOOKED_AT * count} samples, but "
                "recipe.caption_interval asks for captions. Set it to 0."
            )

    def measure(self, model: VisionLanguageModel, step: int, tracker: StageTracker) -> dict[str, float]:
        """Describe the pictures, write the page of this step, and return the metrics.

        Args:
            model: The model in training mode, in which it is left.
            step: Number of the step.
            tracker: Receives the page.

        Returns:
            `zero_shot_cider`: CIDEr against the samples' own answers, in points, on words without punctuation (no Java).
        """
        model.eval()
        texts: list[str] = []
        for first in range(0, len(self._prompts), _BATCH_SIZE):
            prompts = self._prompts[first : first + _BATCH_SIZE]
            room = model.architecture.language.max_position_embeddings - max(prompt.length for prompt in prompts)
            limit = max(1, min(MAX_NEW_TOKENS, room))
            found = generate(model, prompts, end_tokens=self._tokenizer.ends, max_new_tokens=limit)
            texts += [self._tokenizer.decode(tokens).strip() for tokens in found]
        model.train()
        every = self._gather(texts)
        answers = [shown.answer for shown in self._shown]
        score = cider(every, answers)
        if self._parallel.rank == 0:
            said = [
                Described(step, shown.answer, text, shown.question)
                for shown, text in zip(self._shown, every, strict=True)
            ]
            write_texts(self._output, step, said)
            path = step_path(self._output, step, ".html")
            write_text(path, page(f"{self._title}, step {step}: CIDEr {score:.1f}", self._shown, every))
            tracker.log_artifact(path, ZERO_SHOT_FOLDER)
        return {METRIC: score}

    def _gather(self, own: list[Any]) -> list[Any]:
        """Return what all data-parallel ranks have, on every rank, in the order of ranks."""
        parts = on_every_rank(lambda: own if self._parallel.tensor_rank == 0 else [])
        return [item for part in parts for item in part]


def ask(sample: EncodedSample, tokenizer: ChatTokenizer) -> tuple[EncodedSample, Shown] | None:
    """Return the prompt of a training sample, and what is shown of it: its first answer counts, and its first picture.

    None where no picture stands before that answer.
    """
    trained = (sample.labels != IGNORED_LABEL).tolist()
    start = trained.index(True)
    end = start + [*trained[start:], False].index(False)
    # The label at a place is the token after it.
    tokens = sample.tokens[: start + 1]
    pictures, _ = pictures_within(sample, start + 1, tokenizer.image)
    if not pictures:
        return None
    prompt = replace(
        sample,
        tokens=tokens,
        labels=torch.full_like(tokens, IGNORED_LABEL),
        pixels=sample.pixels[:pictures],
        valid=sample.valid[:pictures],
    )
    height, width = sample.valid[0].tolist()
    picture = Image.fromarray(sample.pixels[0, :, :height, :width].permute(1, 2, 0).numpy())
    return prompt, Shown(
        question=tokenizer.decode(tokens.tolist()).strip(),
        answer=tokenizer.decode(sample.labels[start:end].tolist()).strip(),
        picture=data_uri(thumbnail(picture)),
    )


def cider(texts: Sequence[str], answers: Sequence[str]) -> float:
    """Return CIDEr in points of texts against one reference each."""
    # Imported here: training without captions does not need the scorer.
    from components.metrics.captioning import CaptionScorer
    from components.metrics.tokenization import tokenise

    references = [[answer] for answer in tokenise(answers, java=None)]
    with CaptionScorer(references, ("cider",), java=None) as scorer:
        return POINTS * scorer.score(tokenise(texts, java=None))["cider"].value()


def page(title: str, samples: Sequence[Shown], texts: Sequence[str]) -> str:
    """Return an HTML page with every picture, what the model says of it, and the sample's own answer."""
    return render_page(_TEMPLATE, ZeroShotView(title, list(zip(samples, texts, strict=True))))
