"""Loading goes on exactly: after SIGKILL, and with another number of data-parallel ranks."""

import json
import multiprocessing
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest

from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.data.resume import Layout
from components.data.tokenizer import ChatTokenizer
from components.errors import StageError
from tests.support import data_samples
from tests.support.loader_process import load
from tests.support.waiting import wait_for

IMAGE = ImageSettings(size=32, patch=16)
GLOBAL_BATCH = 12
OPEN: list[TrainingLoader] = []

Batches = list[list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    return data_samples.make_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return data_samples.make_dataset(folder, data_samples.make_captions(folder / "raw", 200))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def _settings(workers: int) -> LoaderSettings:
    return LoaderSettings(
        prompt_format="plain", sequence_length=100, shuffle_buffer=20, samples_per_slice=5, workers=workers
    )


def _ranks(
    dataset: Path, tokenizer: ChatTokenizer, ranks: int, workers: int, global_batch: int = GLOBAL_BATCH
) -> list[TrainingLoader]:
    loaders = [
        TrainingLoader(
            dataset,
            _settings(workers),
            tokenizer=tokenizer,
            image=IMAGE,
            samples_per_batch=global_batch // ranks,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
        )
        for rank in range(ranks)
    ]
    OPEN.extend(loaders)
    return loaders


def _global_batches(loaders: list[TrainingLoader], count: int) -> Batches:
    return [[sample.key for loader in loaders for sample in next(loader)] for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_killed_process_is_continued_exactly(
    folder: Path, dataset: Path, tokenizer: ChatTokenizer, workers: int
) -> None:
    here = folder / f"killed-{workers}"
    here.mkdir()
    process = multiprocessing.get_context("forkserver").Process(
        target=load, args=(here, dataset, _settings(workers), folder / "tokenizer", IMAGE, GLOBAL_BATCH)
    )
    process.start()

    def has_drawn() -> bool:
        assert process.is_alive(), (here / "output.log").read_text()
        return len(list(here.glob("*.state"))) >= 4 + workers  # not all of a worker's turns are over

    try:
        wait_for(has_drawn, look_s=0.005)
    finally:
        if process.is_alive():
            own = psutil.Process(process.pid)
            for victim in [*own.children(recursive=True), own]:
                victim.send_signal(signal.SIGKILL)
        process.join()
    states = sorted(here.glob("*.state"))
    drawn: Batches = [json.loads(line) for line in (here / "keys.jsonl").read_text().splitlines()]
    (uninterrupted,) = _ranks(dataset, tokenizer, 1, workers)
    expected = _global_batches([uninterrupted], len(states) + 8)
    assert drawn[: len(states)] == expected[: len(states)]
    (resumed,) = _ranks(dataset, tokenizer, 1, workers)
    resumed.restore([states[-1].read_bytes()])
    assert _global_batches([resumed], 8) == expected[len(states) :]
    assert resumed.counts.drawn == GLOBAL_BATCH * len(expected)


@pytest.mark.parametrize(
    ("before", "after", "workers_after"), [((2, 1), 1, 2), ((2, 0), 1, 2), ((1, 2), 2, 1), ((4, 1), 2, 2)]
)
def test_other_number_of_ranks_draws_the_same_global_batches(
    dataset: Path, tokenizer: ChatTokenizer, before: tuple[int, int], after: int, workers_after: int
) -> None:
    loaders = _ranks(dataset, tokenizer, *before)
    _global_batches(loaders, 3)
    states = [loader.state() for loader in loaders]
    expected = _global_batches(loaders, 6)
    changed = _ranks(dataset, tokenizer, after, before[1])
    for loader in changed:
        loader.restore(states)
    assert {loader.workers for loader in changed} == {workers_after}
    assert sum(loader.counts.drawn for loader in changed) == 3 * GLOBAL_BATCH
    assert _global_batches(changed, 6) == expected


def test_changed_ranks_stop_and_go_on_and_change_back(dataset: Path, tokenizer: ChatTokenizer) -> None:
    loaders = _ranks(dataset, tokenizer, 2, 0)
    expected = _global_batches(loaders, 4)
    (alone,) = _ranks(dataset, tokenizer, 1, 0)
    alone.restore([loader.state() for loader in _ranks(dataset, tokenizer, 2, 0)])
    assert _global_batches([alone], 2) == expected[:2]
    for ranks in (1, 2):
        again = _ranks(dataset, tokenizer, ranks, 0)
        for loader in again:
            loader.restore([alone.state()])
        assert _global_batches(again, 2) == expected[2:]


def test_change_before_the_first_step(dataset: Path, tokenizer: ChatTokenizer) -> None:
    expected = _global_batches(_ranks(dataset, tokenizer, 2, 1), 3)
    states = [loader.state() for loader in _ranks(dataset, tokenizer, 2, 1)]
    (alone,) = _ranks(dataset, tokenizer, 1, 1)
    alone.restore(states)
    assert _global_batches([alone], 3) == expected


def test_ranks_that_can_not_go_on_are_refused(dataset: Path, tokenizer: ChatTokenizer) -> None:
    def states(ranks: int, workers: int, global_batch: int = GLOBAL_BATCH) -> list[bytes]:
        loaders = _ranks(dataset, tokenizer, ranks, workers, global_batch)
        _global_batches(loaders, 1)
        return [loader.state() for loader in loaders]

    (alone,) = states(1, 0)
    with pytest.raises(StageError, match=r"changed from 1 to 2.*1 streams.*spread over 1 ranks"):
        _ranks(dataset, tokenizer, 2, 0)[0].restore([alone])
    two = states(2, 3)
    with pytest.raises(StageError, match=r"changed from 2 to 4.*6 streams.*spread over 1, 2, 3, 6 ranks"):
        _ranks(dataset, tokenizer, 4, 3)[0].restore(two)
    with pytest.raises(StageError, match="2 loader states were saved, but 1 are there"):
        _ranks(dataset, tokenizer, 2, 3)[0].restore(two[:1])
    uneven = states(2, 4, 12)
    with pytest.raises(StageError, match=r"6 samples of a rank were no multiple of its 4 loader processes.*Use 2"):
        _ranks(dataset, tokenizer, 1, 4, 12)[0].restore(uneven)


@pytest.mark.parametrize(
    ("ranks", "workers", "global_batch", "chunks", "size"),
    [(1, 0, 32, 1, 32), (2, 4, 256, 4, 32), (2, 3, 8, 1, 4), (1, 4, 6, 2, 3), (16, 4, 256, 4, 4)],
)
def test_a_step_takes_equal_chunks(ranks: int, workers: int, global_batch: int, chunks: int, size: int) -> None:
    layout = Layout(ranks, workers, global_batch)
    assert (layout.chunks, layout.chunk_size) == (chunks, size)
    assert layout.chunks * layout.chunk_size * ranks == global_batch


def test_uneven_workers_resume_exactly(dataset: Path, tokenizer: ChatTokenizer) -> None:
    def loader() -> TrainingLoader:
        return _ranks(dataset, tokenizer, 1, 4, 6)[0]

    whole = [[sample.key for sample in batch] for batch in islice(loader(), 9)]
    first, second = loader(), loader()
    assert _global_batches([first], 3) == whole[:3]
    second.restore([first.state()])
    assert _global_batches([second], 6) == whole[3:]
