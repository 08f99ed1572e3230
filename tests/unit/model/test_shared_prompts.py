"""Prompts that begin alike are read once: logits and answers are those of prompts that are read alone."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data.packing import EncodedSample, pack
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.decoding import Decoder, generate
from components.model.distributed import single_process
from components.model.sampling_settings import Sampling
from components.model.seen_pictures import rows_of_prompts, see_pictures
from components.model.shared_prompts import part_prompts
from components.model.vlm import VisionLanguageModel, build_model
from tests.support.model_samples import TOLERANCE
from tests.support.model_world import build_world

NEW_TOKENS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VisionLanguageModel]:
    folder = build_world(tmp_path_factory.mktemp("world")).model
    with single_process():
        loaded = build_model(read_model_config(folder))
        load_model(loaded, folder / "checkpoint")
        yield loaded.eval()


def prompt_of(
    model: VisionLanguageModel, picture: int, before: list[int], after: list[int], key: str = ""
) -> EncodedSample:
    """A prompt with one picture between two texts; pictures of equal numbers are equal."""
    image = model.architecture.image
    tokens = torch.tensor([1, *before, *[model.architecture.image_token_id] * image.tokens, *after])
    generator = torch.Generator().manual_seed(picture)
    pixels = torch.randint(0, 256, (1, 3, image.size, image.size), generator=generator, dtype=torch.uint8)
    valid = torch.tensor([[image.size, image.size - picture]])
    return EncodedSample(key, tokens, torch.full_like(tokens, -100), pixels, valid)


words = st.integers(10, 60)
questions = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([[], [], [9], [9, 8]]),
        st.lists(words, min_size=1, max_size=9).map(lambda tail: [20, 21, *tail]),
    ),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions, st.booleans())
def test_answers_are_those_of_prompts_that_are_read_alone(
    model: VisionLanguageModel, asked: list[tuple[int, list[int], list[int]]], drawn: bool
) -> None:
    prompts = [prompt_of(model, *one, key=str(number)) for number, one in enumerate(asked)]
    sampling = Sampling(temperature=1.3 if drawn else 0.0)

    def answers(together: list[EncodedSample]) -> list[list[int]]:
        return generate(model, together, end_tokens={2, 33}, max_new_tokens=NEW_TOKENS, sampling=sampling)

    expected = [answers([prompt])[0] for prompt in prompts]
    assert answers(prompts) == expected
    # Pictures that were seen before need not be in the prompts.
    seen = see_pictures(model, prompts)
    bare = [dataclasses.replace(prompt, pixels=prompt.pixels[:0], valid=prompt.valid[:0]) for prompt in prompts]
    found = generate(model, bare, end_tokens={2, 33}, max_new_tokens=NEW_TOKENS, sampling=sampling, seen=seen)
    assert found == expected


def test_logits_are_those_of_whole_prompts(model: VisionLanguageModel) -> None:
    tails = [[20, 21, 30], [20, 21, 31, 32, 33, 34], [20, 21, 30, 31], [20, 21, 30]]
    prompts = [prompt_of(model, number % 2, [], tail) for number, tail in enumerate(tails)]
    prompts.append(prompt_of(model, 0, [], [20, 22, 23]))
    seen = see_pictures(model, prompts)
    parted = part_prompts(prompts, rows_of_prompts(model, prompts, seen.rows), model.architecture.image_token_id)
    assert parted is not None
    assert parted.beginnings.count == 2
    read = sum(sample.length for sample in parted.samples)
    assert read < sum(prompt.length for prompt in prompts) * 0.6
    decoders = [
        Decoder(
            model,
            pack(samples, sum(sample.length for sample in samples))[0],
            None,
            3,
            features=seen.features,
            pictures=torch.tensor(rows),
            beginnings=beginnings,
        )
        for samples, rows, beginnings in (
            (prompts, seen.rows, None),
            (parted.samples, parted.rows, parted.beginnings),
        )
    ]
    for step in range(3):
        whole, shared = (decoder.logits for decoder in decoders)
        torch.testing.assert_close(shared, whole, rtol=0, atol=TOLERANCE)
        if step < 2:
            for decoder in decoders:
                decoder.step(torch.arange(len(prompts)) + 40)


def test_prompts_that_part_before_their_picture_are_read_whole(model: VisionLanguageModel) -> None:
    prompts = [prompt_of(model, 0, [9], [30]), prompt_of(model, 0, [8], [30])]
    assert part_prompts(prompts, [[0], [0]], model.architecture.image_token_id) is None


def test_prompts_of_different_pictures_have_nothing_to_share(model: VisionLanguageModel, tmp_path: Path) -> None:
    prompts = [prompt_of(model, number, [], [30, 31]) for number in range(3)]
    assert part_prompts(prompts, [[0], [1], [2]], model.architecture.image_token_id) is None
