"""Blends of several prepared datasets: weights, resume, what is refused."""

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.data.blend import BLEND_FILE, blend_digest, blend_file
from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader, validation_samples
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError, StageError
from tests.support import data_samples

IMAGE = ImageSettings(size=32, patch=16)
CAPTIONS, DIALOGUES = 120, 60
OPEN: list[TrainingLoader] = []


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blend")


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> ChatTokenizer:
    return data_samples.make_tokenizer(root / "tokenizer")


@pytest.fixture(scope="module")
def parts(root: Path) -> tuple[Path, Path]:
    """Captions, and dialogues of which every third has no picture."""
    captions = data_samples.make_dataset(root / "a", data_samples.make_captions(root / "a-raw", CAPTIONS))
    entries = [data_samples.dialogue_entry(number, number % 3 > 0) for number in range(DIALOGUES)]
    pictures = {
        entry["image"]: data_samples.picture(number) for number, entry in enumerate(entries) if "image" in entry
    }
    dialogues = data_samples.make_dataset(root / "b", data_samples.make_raw(root / "b-raw", entries, pictures))
    return captions, dialogues


def _write_blend(folder: Path, parts: dict[Path, float], **changes: Any) -> Path:
    """Write the blend of the datasets' `dataset/` folders with their weights."""

    def entries() -> list[dict[str, Any]]:
        return [
            {"weight": weight, "path": str(part / "dataset"), "dataset_config": "conversation.yaml", **changes}
            for part, weight in parts.items()
        ]

    folder.mkdir(exist_ok=True)
    content = {
        "__module__": "megatron.energon",
        "__class__": "MetadatasetV2",
        "splits": {split: {"blend": entries()} for split in ("train", "val")},
    }
    (folder / BLEND_FILE).write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture
def blend(tmp_path: Path, parts: tuple[Path, Path]) -> Path:
    return _write_blend(tmp_path / "blend", {parts[0]: 3.0, parts[1]: 1.0})


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def _settings(workers: int = 0) -> LoaderSettings:
    return LoaderSettings(prompt_format="instruct", sequence_length=200, shuffle_buffer=10, workers=workers)


def _loader(folder: Path, tokenizer: ChatTokenizer, workers: int = 0) -> TrainingLoader:
    OPEN.append(TrainingLoader(folder, _settings(workers), tokenizer=tokenizer, image=IMAGE, samples_per_batch=8))
    return OPEN[-1]


def _keys(loader: TrainingLoader, batches: int) -> list[list[str]]:
    return [[sample.key for sample in batch] for batch in islice(loader, batches)]


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_decide_the_shares(blend: Path, tokenizer: ChatTokenizer, workers: int) -> None:
    keys = [key for batch in _keys(_loader(blend, tokenizer, workers), 100) for key in batch]
    dialogues = [key for key in keys if key.startswith("d")]
    # 800 draws of probability 1/4: four standard deviations are 49.
    assert len(dialogues) == pytest.approx(200, abs=49)
    # Within a dataset every sample comes up about equally often: 200 draws of 54 samples.
    assert len(set(dialogues)) == DIALOGUES * 0.9
    assert max(Counter(dialogues).values()) <= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_blend_resumes_exactly(blend: Path, tokenizer: ChatTokenizer, workers: int) -> None:
    loader = _loader(blend, tokenizer, workers)
    _keys(loader, 7)
    state = loader.state()
    expected = _keys(loader, 10)
    resumed = _loader(blend, tokenizer, workers)
    resumed.restore([state])
    assert _keys(resumed, 10) == expected


def test_validation_reads_every_dataset_once(blend: Path, tokenizer: ChatTokenizer) -> None:
    keys = [sample.key for sample in validation_samples(blend, _settings(), tokenizer=tokenizer, image=IMAGE)]
    expected = [f"{number:08d}" for number in range(108, 120)] + [f"d{number}" for number in range(54, 60)]
    assert sorted(keys) == sorted(expected)


def test_other_weights_and_other_data_are_another_blend(
    blend: Path, tmp_path: Path, parts: tuple[Path, Path], tokenizer: ChatTokenizer
) -> None:
    loader = _loader(blend, tokenizer)
    next(loader)
    other = _write_blend(tmp_path / "other", {parts[0]: 1.0, parts[1]: 1.0})
    with pytest.raises(StageError, match="dataset_sha256"):
        _loader(other, tokenizer).restore([loader.state()])
    copy = tmp_path / "copy"
    shutil.copytree(parts[1], copy)
    third = _write_blend(tmp_path / "third", {copy: 1.0})
    before = blend_digest(third / BLEND_FILE)
    (copy / "dataset" / ".nv-meta" / "split.yaml").write_text("split_parts: {train: [], val: [], test: []}\n")
    assert blend_digest(third / BLEND_FILE) != before


def test_a_blend_may_name_a_blend(tmp_path: Path, parts: tuple[Path, Path], tokenizer: ChatTokenizer) -> None:
    inner = _write_blend(tmp_path / "inner", {parts[1]: 1.0})
    outer = tmp_path / "outer"
    outer.mkdir()
    entry = {"weight": 1.0, "path": str(inner / BLEND_FILE)}
    content = {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": {"train": {"blend": [entry]}}}
    (outer / BLEND_FILE).write_text(yaml.safe_dump(content))
    before = blend_digest(outer / BLEND_FILE)
    assert all(key.startswith("d") for batch in _keys(_loader(outer, tokenizer), 5) for key in batch)
    _write_blend(tmp_path / "inner", {parts[0]: 1.0})
    assert blend_digest(outer / BLEND_FILE) != before


def test_what_can_not_be_read_is_refused(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"names the dataset .*nowhere.*conversation\.yaml can't be read"):
        blend_file(_write_blend(tmp_path / "missing", {tmp_path / "nowhere": 1.0}))
    # The reference recipe's sample type would train the first answer alone.
    with pytest.raises(InputError, match=r"as VQASample.*add `dataset_config: conversation\.yaml`"):
        blend_file(_write_blend(tmp_path / "vqa", {parts[0]: 1.0}, dataset_config=None))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / BLEND_FILE).write_text("splits: [")
    with pytest.raises(InputError, match="not a readable YAML"):
        blend_file(broken)
