import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from components.data.packing import EncodedSample
from components.data.pictures import Pictures
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError, StageError
from components.generate.answerer import Answer
from components.generate.config import GenerateConfig
from components.generate.controls import blank_like
from components.generate.journal import JOURNAL_FOLDER, Journal, finished_batches
from components.generate.requests import batches_by_length
from components.generate.stage import run_generate
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.decoding import generate
from components.model.distributed import single_process
from components.model.sampling_settings import Sampling
from components.model.vlm import VisionLanguageModel, build_model
from components.tasks.loading import load_samples, load_task
from tests.support.data_samples import finish_raw
from tests.support.evaluation_world import INTERLEAVED, SHORT_QUESTIONS, interleave, raw_dataset
from tests.support.model_world import World, build_world, projector_weights, reference_embeddings
from tests.support.ranks import Ranks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def raw(world: World) -> Path:
    return raw_dataset(world.context, 9, side=32)


@pytest.fixture
def model(world: World) -> Iterator[VisionLanguageModel]:
    with single_process():  # also taken down where the test fails: the next file finds no process groups
        loaded = build_model(read_model_config(world.model))
        load_model(loaded, world.model / "checkpoint")
        yield loaded.eval()


def prompts_of(world: World, raw: Path) -> list[EncodedSample]:
    tokenizer = ChatTokenizer.load(world.model / "tokenizer")
    settings = read_model_config(world.model).image
    with Pictures(raw) as pictures:
        return [
            encode_prompt(
                sample.question if row % 2 else "red",
                [pictures.open(sample.image)],
                tokenizer=tokenizer,
                settings=settings,
                prompt_format="instruct",
            )
            for row, sample in enumerate(load_samples(raw, load_task("multiple_choice")))
        ]


def generate_by_transformers(
    world: World, projector: dict[str, Tensor], prompts: list[EncodedSample], end_token: int, steps: int
) -> list[list[int]]:
    """Greedy decoding of left-padded prompts by transformers' own `generate`, on the weights that the model was made of."""
    embedded = [reference_embeddings(world, projector, prompt) for prompt in prompts]
    longest = max(len(one) for one in embedded)
    padded = torch.stack([torch.cat([torch.zeros(longest - len(one), one.shape[1]), one]) for one in embedded])
    seen = torch.stack([(torch.arange(longest) >= longest - len(one)).long() for one in embedded])
    with torch.no_grad():
        found = world.language.generate(
            inputs_embeds=padded,
            attention_mask=seen,
            max_new_tokens=steps,
            do_sample=False,
            eos_token_id=end_token,
            pad_token_id=end_token,
        )
    return [list(itertools.takewhile(lambda token: token != end_token, row)) for row in found.tolist()]


def test_greedy_answers_of_a_batch_equal_transformers_sample_by_sample(
    world: World, raw: Path, model: VisionLanguageModel
) -> None:
    prompts = prompts_of(world, raw)
    assert len({prompt.length for prompt in prompts}) > 1
    projector = projector_weights(model)
    free = generate_by_transformers(world, projector, prompts, model.architecture.language.vocabulary_size - 1, 12)
    # A token that some answers meet early: answers leave the batch at different times.
    end_token = free[0][4]
    expected = generate_by_transformers(world, projector, prompts, end_token, 12)
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, prompts, end_tokens=[end_token], max_new_tokens=12) == expected
    assert generate(model, prompts[3:4], end_tokens=[end_token], max_new_tokens=12) == expected[3:4]
    assert generate(model, [], end_tokens=[end_token], max_new_tokens=12) == []


def test_a_draw_depends_on_seed_and_sample_alone(world: World, raw: Path, model: VisionLanguageModel) -> None:
    prompts = [replace(prompt, key=str(row)) for row, prompt in enumerate(prompts_of(world, raw))]
    settings = {"end_tokens": [2], "max_new_tokens": 8}

    def draw(chosen: list[EncodedSample], seed: int = 0) -> list[list[int]]:
        return generate(model, chosen, sampling=Sampling(temperature=2.0, top_p=0.95, seed=seed), **settings)

    together = draw(prompts)
    assert draw(prompts[::-1]) == together[::-1]
    assert [draw([prompt])[0] for prompt in prompts] == together
    assert draw(prompts, seed=1) != together
    greedy = generate(model, prompts, **settings)
    assert together != greedy
    for sampling in (
        Sampling(temperature=1e-6),
        Sampling(temperature=3.0, top_k=1),
        Sampling(temperature=1, top_p=1e-9),
    ):
        assert generate(model, prompts, sampling=sampling, **settings) == greedy


def test_prompts_of_one_picture_share_its_encoding(
    world: World, raw: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = prompts_of(world, raw)
    prompts = [first, second, replace(second, pixels=first.pixels, valid=first.valid), first]
    alone = [generate(model, [prompt], end_tokens=[2], max_new_tokens=5)[0] for prompt in prompts]
    encoded: list[int] = []
    tower = model.vision_model.forward
    monkeypatch.setattr(model.vision_model, "forward", lambda pixels: encoded.append(len(pixels)) or tower(pixels))
    assert generate(model, prompts, end_tokens=[2], max_new_tokens=5) == alone
    assert encoded == [2]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().split("\n") if line]


def answers_to(world: World, raw: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Return the answers to rows of predictions, encoded as in training."""
    tokenizer = ChatTokenizer.load(world.model / "tokenizer")
    with Pictures(raw) as pictures:
        prompts = [
            encode_prompt(
                row["prompt"],
                [pictures.open(name) for name in row.get("images", [row["image"]])],
                tokenizer=tokenizer,
                settings=read_model_config(world.model).image,
                prompt_format="instruct",
            )
            for row in rows
        ]
    with single_process():
        model = build_model(read_model_config(world.model))
        load_model(model, world.model / "checkpoint")
        answers = generate(model.eval(), prompts, end_tokens=tokenizer.ends, max_new_tokens=6)
    return [tokenizer.decode(answer).strip() for answer in answers]


def test_a_question_is_asked_about_all_its_pictures(world: World, raw: Path, tmp_path: Path) -> None:
    """Those that markers place, and those in front; a question about one picture beside them."""
    other = tmp_path / "raw"
    shutil.copytree(raw, other)
    rows = [json.loads(line) for line in (raw / "multiple_choice.jsonl").read_text().splitlines()][:3]
    names = [row["image"] for row in rows]
    questions = ["is <image> or <image>", "is it", "is it"]
    for row, question in zip(rows, questions, strict=True):
        row["question"] = question
    rows[0]["images"], rows[1]["images"] = names[:2], [names[1], names[0], names[2]]
    (other / "multiple_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish_raw(other)
    task = tmp_path / "short_questions.yaml"
    task.write_text(SHORT_QUESTIONS.replace("format: instruct,", "format: instruct, pictures: all,"))
    found = rows_of(
        run_generate(world.context, GenerateConfig(task=str(task), controls=("none",)), world.model, other, 0).folder
    )
    assert [row.get("images") for row in found] == [rows[0]["images"], rows[1]["images"], None]
    assert [row["text"] for row in found] == answers_to(world, other, found)


def test_pictures_stand_where_their_marks_are(world: World, raw: Path, tmp_path: Path) -> None:
    """Of several those of the question and of its options, a picture with two marks twice; without marks in front."""
    other = tmp_path / "raw"
    shown = interleave(raw, other)
    task = tmp_path / "interleaved.yaml"
    task.write_text(INTERLEAVED)
    config = GenerateConfig(task=str(task), controls=("none", "blank"))
    found = rows_of(run_generate(world.context, config, world.model, other, 0).folder)
    pictures = [tuple(row.get("images", [row["image"]])) for row in found]
    assert pictures == [*shown, *[("",) * len(names) for names in shown]]
    assert [row["prompt"] for row in found[:3]] == [
        "which is <image> ? A <image>\nB red <image>\nC <image>",
        "is <image> red A yes\nB no",
        "are they A yes\nB no",
    ]
    assert [row["text"] for row in found[:3]] == answers_to(world, other, found[:3])


@pytest.mark.parametrize("name", ["captioning", "short_questions.yaml"])
def test_partitions_and_batch_sizes_give_the_same_predictions(
    world: World, raw: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "short_questions.yaml").write_text(SHORT_QUESTIONS)  # the test tokenizer makes long prompts too long
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


@pytest.mark.usefixtures("forked_launches")
def test_processes_share_a_partition_and_samples_draw_for_themselves(world: World, raw: Path) -> None:
    sampling = Sampling(temperature=1.5)
    config = GenerateConfig(task="captioning", batch_size=2, max_new_tokens=6, sampling=sampling)
    alone = run_generate(world.context, config, world.model, raw, 0)
    shared = run_generate(world.context, config.model_copy(update={"processes_per_node": 2}), world.model, raw, 0)
    rows = rows_of(alone.folder)
    assert [{**row, "generation": ""} for row in rows_of(shared.folder)] == [{**row, "generation": ""} for row in rows]
    # Nine samples see the same grey picture, and each says something of its own.
    assert len({row["text"] for row in rows if row["control"] == "blank"}) > 5
    assert alone.manifest.facts["answers"] == 3 * 9
    assert sorted(path.name for path in shared.folder.iterdir()) == sorted(path.name for path in alone.folder.iterdir())


def test_a_killed_generation_goes_on_after_the_finished_batches(world: World, raw: Path, tmp_path: Path) -> None:
    config = GenerateConfig(task="captioning", batch_size=2, max_new_tokens=50, sampling=Sampling(temperature=1.5))
    whole = run_generate(world.context, config, world.model, raw, 0)
    context = world.context.model_copy(update={"workspace": tmp_path})
    process = Ranks(1, run_generate, context, config, world.model, raw, 0)
    journal = tmp_path / whole.folder.relative_to(world.context.workspace) / JOURNAL_FOLDER / "rank_0000.jsonl"
    process.kill_when(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3)
    done = journal.read_bytes().count(b"\n")
    with journal.open("ab") as stream:
        stream.write(b'{"batch": 12, "answers": [[4, 5')  # the kill may have come in the middle of a line
    resumed = run_generate(context, config, world.model, raw, 0)
    assert 3 <= done < 14
    assert resumed.manifest.facts["answers_done_before"] in (2 * done, 2 * done - 1)
    predictions = [output.folder / "predictions.jsonl" for output in (whole, resumed)]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
    assert not journal.parent.exists()


def test_a_journal_cut_anywhere_keeps_its_whole_batches(tmp_path: Path) -> None:
    batches = [[Answer("a\nb", 2, 9), Answer("", 0)], [Answer("ä", 1)], [Answer('"', 3, 7), Answer("\u2028", 1)]]
    sizes = [len(answers) for answers in batches]
    with Journal(tmp_path / "whole", 0) as journal:
        for number, answers in enumerate(batches):
            journal.append(number, answers)
    content = (tmp_path / "whole" / "rank_0000.jsonl").read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    for length in range(len(content) + 1):
        (folder / "rank_0000.jsonl").write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        assert finished_batches(folder, sizes) == dict(enumerate(batches[:whole]))
        with Journal(folder, 0) as journal:
            for number in range(whole, 3):
                journal.append(number, batches[number])
        assert (folder / "rank_0000.jsonl").read_bytes() == content
    for line in (b'{"batch": 0, "answers": [["a", 1]]}', b'{"batch": 0, "answers": [[5, 6], [7, 8]]}', b"[]"):
        (folder / "rank_0000.jsonl").write_bytes(line + b"\n")
        with pytest.raises(StageError, match="not a batch of this generation"):
            finished_batches(folder, sizes)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 7))
def test_batches_hold_every_input_once_and_longest_first(lengths: list[int], size: int) -> None:
    batches = batches_by_length(lengths, size)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])


def test_processes_that_tensor_parallel_does_not_divide_are_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of tensor_parallel"):
        GenerateConfig(task="captioning", processes_per_node=3, tensor_parallel=2)


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
