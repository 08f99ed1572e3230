import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_world import raw_dataset

from components.data.packing import EncodedSample, pack
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError
from components.generate.config import GenerateConfig
from components.generate.controls import blank_like
from components.generate.dataset import Pictures, load_samples
from components.generate.decoding import generate_greedy
from components.generate.stage import run_generate
from components.generate.task import load_task
from components.model.checkpoint import load_model
from components.model.config import read_model_config
from components.model.distributed import destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model
from tests.model_world import World, build_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def raw(world: World) -> Path:
    return raw_dataset(world.context, 9, side=32)


@pytest.fixture
def model(world: World) -> Iterator[VisionLanguageModel]:
    initialize(1)
    loaded = build_model(read_model_config(world.model))
    load_model(loaded, world.model / "checkpoint")
    yield loaded.eval()
    destroy()


def prompts_of(world: World, raw: Path) -> list[EncodedSample]:
    tokenizer = ChatTokenizer.load(world.model / "tokenizer")
    settings = read_model_config(world.model).image
    with Pictures(raw) as pictures:
        return [
            encode_prompt(
                sample.question if row % 2 else "red",
                pictures.open(sample.image),
                tokenizer=tokenizer,
                settings=settings,
                prompt_format="instruct",
            )
            for row, sample in enumerate(load_samples(raw, load_task("multiple_choice")))
        ]


def naive_greedy(model: VisionLanguageModel, prompt: EncodedSample, end_token: int, steps: int) -> list[int]:
    """Greedy decoding of one sample that runs the whole sequence anew for every token."""
    from components.data.image import normalise

    answer: list[int] = []
    while len(answer) < steps:
        tokens = torch.cat([prompt.tokens, torch.tensor(answer, dtype=torch.int64)])
        sample = EncodedSample("x", tokens, torch.full_like(tokens, -100), prompt.pixels, prompt.valid)
        (batch,) = pack([sample], sequence_length=sample.length)
        with torch.no_grad():
            logits = model(batch, normalise(batch.pixels, batch.valid, model.architecture.image))
        token = int(logits[-1].argmax())
        if token == end_token:
            break
        answer.append(token)
    return answer


def test_a_batch_of_different_lengths_decodes_like_every_sample_alone(
    world: World, raw: Path, model: VisionLanguageModel
) -> None:
    prompts = prompts_of(world, raw)
    # A token that some answers meet early: answers leave the batch at different times.
    free = [naive_greedy(model, prompt, -1, 10) for prompt in prompts]
    end_token = free[0][4]
    expected = [naive_greedy(model, prompt, end_token, 10) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 1
    assert generate_greedy(model, prompts, end_token=end_token, max_new_tokens=10, device=CPU) == expected
    assert generate_greedy(model, prompts[3:4], end_token=end_token, max_new_tokens=10, device=CPU) == expected[3:4]
    assert generate_greedy(model, [], end_token=end_token, max_new_tokens=10, device=CPU) == []


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().split("\n") if line]


SHORT_TASK = """
name: short_questions
version: 1
kind: multiple_choice
dataset: multiple_choice.jsonl
prompt: {format: instruct, template: "{question} {options}", option: "{letter} {text}"}
max_new_tokens: 6
metrics: [accuracy]
headline: accuracy
"""


@pytest.mark.parametrize("name", ["captioning", "short_questions.yaml"])
def test_partitions_and_batch_sizes_give_the_same_predictions(
    world: World, raw: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "short_questions.yaml").write_text(SHORT_TASK)  # the test tokenizer makes long prompts too long
    task = str(tmp_path / name) if name.endswith(".yaml") else name

    def predict(partitions: int, batch_size: int) -> list[dict[str, Any]]:
        config = GenerateConfig(task=task, partitions=partitions, batch_size=batch_size, max_new_tokens=6)
        folders = [run_generate(world.context, config, world.model, raw, number).folder for number in range(partitions)]
        rows = [row for folder in folders for row in rows_of(folder)]
        return sorted(({**row, "generation": ""} for row in rows), key=lambda row: (row["control"], row["id"]))

    whole = predict(1, 32)
    assert len(whole) == 3 * 9
    assert len({(row["id"], row["control"]) for row in whole}) == len(whole)
    assert any(row["text"] for row in whole)
    assert predict(2, 1) == whole


def test_facts_tell_evaluation_what_to_expect_and_a_second_run_reuses(world: World, raw: Path) -> None:
    config = GenerateConfig(task="captioning", partitions=2, max_new_tokens=3, limit=7)
    first = run_generate(world.context, config, world.model, raw, 1)
    facts = first.manifest.facts
    assert (facts["partition"], facts["partitions"], facts["samples"]) == (1, 2, 3)
    assert (facts["samples_expected"], facts["samples_dataset"]) == (7, 9)
    # Captions see the picture alone: one blank picture serves every sample, and most shuffled ones were seen already.
    assert facts["answers"] <= 2 * 3 + 1
    assert {row["generation"] for row in rows_of(first.folder)} == {facts["generation"]}
    assert {row["image"] for row in rows_of(first.folder) if row["control"] == "blank"} == {""}
    assert run_generate(world.context, config, world.model, raw, 1).reused


def test_the_blank_picture_is_one_grey() -> None:
    assert blank_like((8, 8)).getextrema() == ((128, 128),) * 3


def test_a_partition_out_of_range_is_refused(world: World, raw: Path) -> None:
    with pytest.raises(ConfigurationError, match="count from 0"):
        run_generate(world.context, GenerateConfig(task="captioning", partitions=2), world.model, raw, 2)
