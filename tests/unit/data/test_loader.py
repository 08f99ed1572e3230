"""The energon-backed loader: exact resume, counted skips, sharding, over data that the real stages made."""

import contextlib
import copy
import multiprocessing
import multiprocessing.process
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data import loader as data_loader
from components.data.decode import open_picture
from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader, died_of_a_worker, validation_samples
from components.data.packing import IGNORED_LABEL, EncodedSample, pack
from components.data.prompt import encode_conversation
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError, StageError
from tests.support import data_samples

IMAGE = ImageSettings(size=32, patch=16)
BATCH = 4
TRAIN, VAL = 108, 12
# Of the training part; 21, 51 and 81 are texts.
CUT_OFF = {f"d{number}" for number in (1, 11, 31, 41, 61, 71, 91, 101)}
OPEN: list[TrainingLoader] = []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return data_samples.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captions")
    return data_samples.make_dataset(root, data_samples.make_captions(root / "raw", TRAIN + VAL))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 dialogues and texts; every tenth picture is cut off, and the conversion did not look."""
    root = tmp_path_factory.mktemp("damaged")
    entries = [data_samples.dialogue_entry(number, number % 3 > 0) for number in range(TRAIN + VAL)]
    pictures = {}
    for number, entry in enumerate(entries):
        if "image" in entry:
            content = data_samples.picture(number, "PNG" if number % 2 else "JPEG")
            pictures[entry["image"]] = content[:100] if number % 10 == 1 else content
    return data_samples.make_dataset(root, data_samples.make_raw(root / "raw", entries, pictures), check_images=False)


def _settings(**changes: object) -> LoaderSettings:
    values = {"prompt_format": "plain", "sequence_length": 100, "shuffle_buffer": 20, "samples_per_slice": 5, **changes}
    values.setdefault("max_skip_share", 1)
    return LoaderSettings.model_validate(values)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """End the workers of every loader of a test."""
    yield
    while OPEN:
        OPEN.pop().close()


def _loader(dataset: Path, tokenizer: ChatTokenizer, settings: LoaderSettings, **arguments: int) -> TrainingLoader:
    sizes = {"samples_per_batch": BATCH, **arguments}
    OPEN.append(TrainingLoader(dataset, settings, tokenizer=tokenizer, image=IMAGE, **sizes))
    return OPEN[-1]


def _assert_same(found: list[EncodedSample], expected: list[EncodedSample]) -> None:
    assert [sample.key for sample in found] == [sample.key for sample in expected]
    for one, other in zip(found, expected, strict=True):
        for name in ("tokens", "labels", "pixels", "valid"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("workers", "after"), [(0, 0), (0, 1), (0, 60), (1, 7), (2, 0), (2, 7)])
def test_resume_is_exact(damaged: Path, tokenizer: ChatTokenizer, workers: int, after: int) -> None:
    settings = _settings(prompt_format="instruct", workers=workers)
    loader = _loader(damaged, tokenizer, settings)
    for _ in range(after):
        next(loader)
    state = loader.state()
    counted = copy.deepcopy(loader.counts)
    expected = [next(loader) for _ in range(6)]

    resumed = _loader(damaged, tokenizer, settings)
    resumed.restore([state])
    assert resumed.counts == counted
    for batch in expected:
        _assert_same(next(resumed), batch)
    assert resumed.counts == loader.counts


def test_resume_twice_is_exact(captions: Path, tokenizer: ChatTokenizer) -> None:
    settings = _settings(workers=2)
    whole = [[sample.key for sample in batch] for batch in islice(_loader(captions, tokenizer, settings), 12)]
    pieces, state = [], None
    for _ in range(3):
        loader = _loader(captions, tokenizer, settings)
        if state is not None:
            loader.restore([state])
        pieces += [[sample.key for sample in batch] for batch in islice(loader, 4)]
        state = loader.state()
    assert pieces == whole


def test_every_epoch_has_every_sample_once(captions: Path, tokenizer: ChatTokenizer) -> None:
    loader = _loader(captions, tokenizer, _settings(shuffle_buffer=0))
    epochs = [Counter(sample.key for batch in islice(loader, TRAIN // BATCH) for sample in batch) for _ in range(2)]
    assert set(epochs[0].values()) == {1}
    assert len(epochs[0]) == TRAIN
    assert epochs[0] == epochs[1]


def test_order_depends_on_the_seed_alone(captions: Path, tokenizer: ChatTokenizer) -> None:
    def keys(seed: int) -> list[str]:
        loader = _loader(captions, tokenizer, _settings(seed=seed))
        return [sample.key for batch in islice(loader, 10) for sample in batch]

    assert keys(1) == keys(1)
    assert keys(1) != keys(2)
    assert keys(1) != sorted(keys(1))


@pytest.mark.parametrize("ranks", [1, 3])
def test_validation_is_finite_deterministic_and_sharded(captions: Path, tokenizer: ChatTokenizer, ranks: int) -> None:
    def keys(rank: int) -> list[str]:
        samples = validation_samples(
            captions, _settings(), tokenizer=tokenizer, image=IMAGE, data_parallel_rank=rank, data_parallel_size=ranks
        )
        return [sample.key for sample in samples]

    parts = [keys(rank) for rank in range(ranks)]
    assert parts == [keys(rank) for rank in range(ranks)]
    assert sorted(key for part in parts for key in part) == [f"{number:08d}" for number in range(TRAIN, TRAIN + VAL)]
    assert {len(part) for part in parts} == {VAL // ranks}


def test_ranks_train_on_different_samples(captions: Path, tokenizer: ChatTokenizer) -> None:
    parts = []
    for rank in range(2):
        loader = _loader(
            captions, tokenizer, _settings(shuffle_buffer=0), data_parallel_rank=rank, data_parallel_size=2
        )
        parts.append({sample.key for batch in islice(loader, 13) for sample in batch})
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_counted_and_listed(
    damaged: Path, tokenizer: ChatTokenizer, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = _loader(damaged, tokenizer, _settings(prompt_format="instruct", shuffle_buffer=0, workers=workers))
    seen: Counter[str] = Counter()
    while len(seen) < TRAIN - len(CUT_OFF):
        seen.update(sample.key for sample in next(loader))
    assert not set(seen) & CUT_OFF
    assert loader.counts.drawn == 25 * BATCH
    # The last one may belong to the batch after.
    assert len(CUT_OFF) - 1 <= loader.counts.skipped <= len(CUT_OFF)
    assert set(loader.counts.reasons) <= CUT_OFF
    assert len(loader.counts.reasons) == loader.counts.skipped
    for _ in range(27):
        next(loader)
    assert set(loader.counts.reasons) == CUT_OFF
    assert loader.counts.skipped > len(CUT_OFF)  # the second epoch meets them again
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert printed.err.count("skipped sample d") == 5
    assert not printed.out


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_the_run(
    damaged: Path, tokenizer: ChatTokenizer, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_loader, "_LEAST_DRAWN", 20)
    enough = _loader(damaged, tokenizer, _settings(prompt_format="instruct", workers=workers, max_skip_share=0.3))
    for _ in range(30):
        next(enough)
    loader = _loader(damaged, tokenizer, _settings(prompt_format="instruct", workers=workers, max_skip_share=0.02))
    with pytest.raises(InputError, match=r"of \d+ samples could not be used, more than max_skip_share.*: d\d+: "):
        list(islice(loader, 30))


@pytest.mark.parametrize("workers", [0, 2])
def test_useless_dataset_stops_with_one_reason(
    captions: Path, tokenizer: ChatTokenizer, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = _loader(captions, tokenizer, _settings(sequence_length=4, workers=workers))
    with pytest.raises(InputError) as caught:
        next(loader)
    assert "100 samples in a row fail. The last one is 0" in str(caught.value)
    assert str(caught.value).endswith("Raise the sequence length or leave the sample out.")
    assert "Traceback" not in str(caught.value)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut in a picture", "cut between samples", "missing"])
def test_shard_that_can_not_be_read_stops_the_run(
    captions: Path, tokenizer: ChatTokenizer, tmp_path: Path, workers: int, damage: str
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(captions, folder)
    shard = sorted((folder / "dataset").glob("*.tar"))[2]
    with tarfile.open(shard) as archive:
        picture = [member for member in archive if member.name.endswith(".jpg")][1]
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(content[: picture.offset_data + 100 if damage == "cut in a picture" else picture.offset])
    loader = _loader(folder, tokenizer, _settings(workers=workers))
    with pytest.raises(
        InputError,
        match=r"A shard of .*can't be read: .*(unexpected end of data|Unexpected end of tar file|No such file)",
    ) as caught:
        list(islice(loader, TRAIN))
    assert "Traceback" not in str(caught.value)


def test_texts_dialogues_and_png_are_read(damaged: Path, tokenizer: ChatTokenizer) -> None:
    samples = list(validation_samples(damaged, _settings(prompt_format="instruct"), tokenizer=tokenizer, image=IMAGE))
    with_picture = {sample.key: len(sample.pixels) for sample in samples}
    assert with_picture == {f"d{number}": int(number % 3 > 0) for number in range(TRAIN, TRAIN + VAL)}
    answers = [tokenizer.decode([t for t in s.labels.tolist() if t != IGNORED_LABEL]) for s in samples]
    assert all("a square" in answer for answer in answers)


def test_several_pictures_stand_where_their_markers_are(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """From LLaVA's JSON through conversion and energon to the packed sequence; text and single pictures beside them."""
    entries: list[dict[str, Any]] = [data_samples.dialogue_entry(number, number % 2 > 0) for number in range(20)]
    pictures = {f"p/{number}.png": data_samples.picture(number, "PNG") for number in range(3)}
    pictures |= {
        entry["image"]: data_samples.picture(number) for number, entry in enumerate(entries) if "image" in entry
    }
    jpeg = next(name for name in pictures if name.endswith("jpg"))
    turns = [
        {"from": "human", "value": "Is <image> as\n<image> ?"},
        {"from": "gpt", "value": "no"},
        {"from": "human", "value": "And <image>\n<image>"},
        {"from": "gpt", "value": "yes"},
    ]
    named = ["p/2.png", jpeg, "p/0.png", "p/1.png"]
    entries += [{"id": f"m{number}", "image": named, "conversations": turns} for number in range(10)]
    dataset = data_samples.make_dataset(tmp_path, data_samples.make_raw(tmp_path / "raw", entries, pictures))
    loader = _loader(dataset, tokenizer, _settings(prompt_format="instruct", sequence_length=200))
    found = {sample.key: sample for batch in islice(loader, 12) for sample in batch}
    several = [sample for sample in found.values() if len(sample.pixels) > 1]
    expected = encode_conversation(
        turns,
        [open_picture(pictures[name]) for name in named],
        tokenizer=tokenizer,
        settings=IMAGE,
        prompt_format="instruct",
    )
    assert several
    assert {len(sample.pixels) for sample in found.values()} == {0, 1, 4}
    for sample in several:
        assert sample.tokens.equal(expected.tokens)
        assert sample.labels.equal(expected.labels)
        assert sample.pixels.equal(expected.pixels)
        assert sample.valid.equal(expected.valid)
    (batch,) = pack(several[:2], 400)
    assert batch.pixels.equal(torch.cat([expected.pixels] * len(several[:2])))


def test_long_samples_are_cut(captions: Path, tokenizer: ChatTokenizer) -> None:
    lengths = {sample.length for sample in next(_loader(captions, tokenizer, _settings()))}
    limit = min(lengths) - 2
    cut = _loader(captions, tokenizer, _settings(sequence_length=limit))
    assert {sample.length for sample in next(cut)} == {limit}
    assert cut.counts.truncated == BATCH


def test_states_that_do_not_fit_are_refused(captions: Path, damaged: Path, tokenizer: ChatTokenizer) -> None:
    loader = _loader(captions, tokenizer, _settings())
    next(loader)
    state = loader.state()
    with pytest.raises(StageError, match="before the first batch"):
        loader.restore([state])
    loader.close()
    for use in (loader.state, loader.__next__):
        with pytest.raises(StageError, match="was closed"):
            use()
    with pytest.raises(StageError, match="not a data loader state"):
        _loader(captions, tokenizer, _settings()).restore([b"\x80\x04pickle"])
    with pytest.raises(StageError, match="damaged"):
        _loader(captions, tokenizer, _settings()).restore([state[:-1]])
    with pytest.raises(StageError, match="settings"):
        _loader(captions, tokenizer, _settings(seed=5)).restore([state])
    with pytest.raises(StageError, match="loader_workers = 0, this run has 1"):
        _loader(captions, tokenizer, _settings(workers=1)).restore([state])
    with pytest.raises(StageError, match="global_batch_size"):
        _loader(captions, tokenizer, _settings(), samples_per_batch=2).restore([state])
    with pytest.raises(StageError, match="dataset_sha256"):
        _loader(damaged, tokenizer, _settings()).restore([state])


def test_more_streams_than_samples_are_refused(captions: Path, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(InputError, match=r"fewer training samples than there are streams of them, 110"):
        _loader(captions, tokenizer, _settings(workers=55), data_parallel_rank=1, data_parallel_size=2)
    _loader(captions, tokenizer, _settings(workers=54), data_parallel_rank=1, data_parallel_size=2)


def test_a_killed_worker_is_told_from_other_errors(captions: Path, tokenizer: ChatTokenizer) -> None:
    others = multiprocessing.active_children()
    loader = _loader(captions, tokenizer, _settings(workers=1))
    next(loader)
    (worker,) = [process for process in multiprocessing.active_children() if process not in others]
    with pytest.raises(RuntimeError) as caught:
        _kill_and_draw(worker, loader)
    with contextlib.suppress(RuntimeError):  # torch's own word on it, where the cut connection was seen first
        time.sleep(0.3)
    assert died_of_a_worker(caught.value)
    assert not died_of_a_worker(RuntimeError("CUDA out of memory"))


def _kill_and_draw(worker: multiprocessing.process.BaseProcess, loader: TrainingLoader) -> None:
    worker.kill()
    for _ in range(50):
        next(loader)


def test_missing_dataset_is_refused(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(InputError, match=r"blend\.yaml does not exist"):
        _loader(tmp_path, tokenizer, _settings())


def test_loading_does_not_touch_the_trainers_random_generators(captions: Path, tokenizer: ChatTokenizer) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    loader = _loader(captions, tokenizer, _settings())
    next(loader)
    loader.state()
    next(validation_samples(captions, _settings(), tokenizer=tokenizer, image=IMAGE))
    next(loader)
    assert torch.equal(torch.rand(3), expected)
