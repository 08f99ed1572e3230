"""Captions of a streamed dataset, each followed by a question about it, as fine-tuning gets them where a dataset asks nothing."""

import random
from collections.abc import Sequence

from components.data.conversation import HUMAN, MODEL, without_marker
from components.download.derived import OPTIONS, Captions
from components.sources.recorded import CaptionQuestions
from components.sources.sample import CAPTION_PROMPT, Sample
from components.tasks.template import LETTERS


class AskedCaptions:
    """Puts a question after a caption; conversations that a dataset brings stay what they are.

    Args:
        questions: What is recorded of the questions.
    """

    def __init__(self, questions: CaptionQuestions) -> None:
        self._seed, self._form = questions.seed, questions.form
        self._captions = Captions(questions.captions)

    def after(self, sample: Sample, row: Sequence[Sample], key: str) -> Sample:
        """Return a sample with its question; it depends on the seed, the key and the captions alone.

        Args:
            sample: A sample.
            row: All samples of its row: their captions are true of the picture, too.
            key: The sample's key.
        """
        true = {caption for one in row if (caption := _caption(one))}
        caption = _caption(sample)
        if not caption or not self._captions.enough_for(len(true)):
            return sample
        rng = random.Random(f"{self._seed}/sft/{key}")
        human, model = self._captions.ask(caption, true, rng.choice(LETTERS[:OPTIONS]), rng).turn(self._form)
        turns = [{"from": HUMAN, "value": human}, {"from": MODEL, "value": model}]
        return Sample(sample.pictures, [*sample.conversation, *turns])


def _caption(sample: Sample) -> str:
    """Return the caption that a sample is; empty for a conversation."""
    turns = sample.conversation
    if len(turns) != 2 or len(sample.pictures) != 1 or without_marker(turns[0]["value"]) != CAPTION_PROMPT:
        return ""
    return turns[1]["value"].strip()
