"""Pictures are seen once, by all questions and tasks of a process, as long as there is room."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from components.data.tokenizer import ChatTokenizer
from components.generate.answerer import Place
from components.generate.answerers.checkpoint import Checkpoint
from components.generate.config import GenerateConfig
from components.generate.generation import answer_partition
from components.generate.picture_memory import PictureMemory
from components.generate.requests import batches_by_length, batches_by_picture
from components.generate.spec import GenerationSpec
from components.model.checkpoint.sharded import load_model
from components.model.config import read_model_config
from components.model.distributed import single_process
from components.model.vlm import build_model
from components.tasks.loading import load_task
from tests.support.evaluation_world import SHORT_QUESTIONS, raw_dataset
from tests.support.model_world import World, build_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("room", [1 << 30, 1])
def test_tasks_of_a_process_share_what_was_seen(world: World, tmp_path: Path, room: int) -> None:
    raw = raw_dataset(world.context, 6, side=32)
    task = tmp_path / "short_questions.yaml"
    task.write_text(SHORT_QUESTIONS)
    seen: list[int] = []

    def answer(answerer: Checkpoint, name: str, batch_size: int) -> list[dict[str, Any]]:
        folder = tmp_path / f"{len(seen)}-{batch_size}-{Path(name).stem}"
        folder.mkdir()
        config = GenerateConfig(task=name, batch_size=batch_size, max_new_tokens=6)
        spec = GenerationSpec(
            config=config,
            task=load_task(name),
            model=world.model,
            raw=raw,
            partition=0,
            generation="",
            output=folder,
            progress_stage="test",
        )
        answer_partition(spec, answerer)
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    with single_process():
        model = build_model(read_model_config(world.model)).eval()
        load_model(model, world.model / "checkpoint")
        tokenizer = ChatTokenizer.load(world.model / "tokenizer")
        look = model.vision_model.forward

        def counted(pixels: Tensor) -> Tensor:
            seen.append(len(pixels))
            return look(pixels)

        model.vision_model.forward = counted  # type: ignore[method-assign]
        alone = Checkpoint(model, tokenizer, Place(), PictureMemory(1))
        expected = [answer(alone, name, 1) for name in ("captioning", str(task))]
        seen.clear()
        kept = Checkpoint(model, tokenizer, Place(), PictureMemory(room))
        assert [answer(kept, name, 4) for name in ("captioning", str(task))] == expected
        if room > 1:
            assert sum(seen) == 6 + 1  # every picture and the blank one
        else:
            assert sum(seen) > 6 + 1


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_the_memory_keeps_what_was_needed_last(names: list[int], room: int) -> None:
    memory = PictureMemory(room * 8)
    order: list[int] = []
    for name in names:
        remembered = memory.get(name)
        assert (remembered is not None) == (name in order)
        if remembered is None:
            memory.put(name, torch.full((2,), float(name)))
        else:
            assert remembered.tolist() == [name, name]
            order.remove(name)
        order = [*order, name][-room:]
        assert {number for number in range(10) if number in memory} == set(order)


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abcd")), max_size=40), st.integers(1, 7))
def test_batches_hold_every_input_once_and_a_pictures_together(asked: list[tuple[int, str]], size: int) -> None:
    lengths, pictures = [length for length, _ in asked], [picture for _, picture in asked]
    batches = batches_by_picture(lengths, pictures, size)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(asked)))
    assert all(len(batch) == size for batch in batches[:-1])
    shown = [pictures[index] for index in order]
    changes = sum(one != other for one, other in itertools.pairwise(shown))
    assert changes == max(len(set(shown)) - 1, 0)
    each_once = [f"{number}" for number in range(len(asked))]
    assert batches_by_picture(lengths, each_once, size) == batches_by_length(lengths, size)
