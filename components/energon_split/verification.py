"""Reads every split back through energon: no sample may be lost, none may come twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron.energon import (
    Cooker,
    Sample,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_val_dataset,
)
from megatron.energon.errors import reraise_exception
from megatron.energon.task_encoder.base import stateless

from components.data.blend import CONVERSATION_FIELD, IMAGE_EXTENSIONS, picture_fields
from components.data.conversation import read_conversation
from components.energon_split.blend import CRUDE_CONFIG, BlendEntry
from components.errors import InputError, StageError
from components.progress import Progress

_KEYS_PER_BATCH = 500
_SAMPLES_PER_WORKER = 20_000  # below this a worker's start costs more than it saves
_EXAMPLES = 3


def verify(
    dataset: Path, splits: dict[str, list[str]], expected: int, processes: int, progress: Progress
) -> dict[str, int]:
    """Read all splits and count.

    Args:
        dataset: Folder of the prepared shards.
        splits: Split to its shards; splits without shards are not read.
        expected: Number of samples that the conversion wrote.
        processes: Most processes that read.
        progress: Where to report.

    Returns:
        Number of samples per split.

    Raises:
        StageError: A sample is missing or comes twice.
    """
    workers = min(processes, expected // _SAMPLES_PER_WORKER)
    progress.start("reading the splits back", expected, "samples")
    seen: Counter[str] = Counter()
    counts = {}
    for split, shards in splits.items():
        counts[split] = 0
        for keys in _keys(dataset, split, workers) if shards else ():
            seen.update(keys)
            counts[split] += len(keys)
            progress.update(sum(counts.values()))
    repeated = [key for key, times in seen.items() if times > 1]
    if repeated or len(seen) != expected:
        raise StageError(
            f"Read back through energon, the splits of {dataset} hold {len(seen)} samples ({len(repeated)} of them more than "
            f"once, such as {repeated[:_EXAMPLES]}); the conversion wrote {expected}. Delete the stage's folder and run again."
        )
    return counts


def check_first_sample(entry: BlendEntry) -> None:
    """Read the first training sample of another dataset and check that training can take it.

    Raises:
        InputError: Energon can't read it, or it has other fields or another conversation than ours.
    """
    try:
        raw = next(_read(Path(entry.path), "train", 0, _RawEncoder(), None, entry.dataset_config)).raw
        if CONVERSATION_FIELD not in raw:
            raise InputError(f"the fields are {sorted(name for name in raw if not name.startswith('__'))}")
        read_conversation(json.loads(raw[CONVERSATION_FIELD]), len(picture_fields(raw)))
    except (Exception, SystemExit) as error:  # energon raises many kinds
        raise InputError(
            f"blend_with: {entry.path} can't be used, its first sample is not as ours are ({', '.join(IMAGE_EXTENSIONS)} and "
            f"{CONVERSATION_FIELD} with the conversation): {error}"
        ) from error


def _keys(dataset: Path, split: str, workers: int) -> Iterator[list[str]]:
    return (batch.keys for batch in _read(dataset, split, workers, _KeyEncoder(), _KEYS_PER_BATCH, CRUDE_CONFIG))


def _read(
    folder: Path, split: str, workers: int, encoder: TaskEncoder, batch_size: int | None, dataset_config: str
) -> Iterator[Any]:
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers, global_error_handler=reraise_exception)
    dataset = get_val_dataset(
        folder,
        split_part=split,
        worker_config=config,
        batch_size=batch_size,
        task_encoder=encoder,
        dataset_config=dataset_config,
    )
    loader = get_loader(dataset, watchdog_timeout_seconds=None)
    loader.pin_memory = False
    return iter(loader)


@edataclass
class _Key(Sample):
    """A sample of which only the key matters."""


@edataclass
class _Keys(Sample):
    """A batch of keys."""

    keys: list[str]


@stateless
def _cook(raw: dict[str, Any]) -> _Key:
    return _Key(**basic_sample_keys(raw))


class _KeyEncoder(TaskEncoder):
    cookers = (Cooker(_cook),)
    decoder = None

    @stateless
    def batch(self, samples: list[_Key]) -> _Keys:
        return _Keys(__key__="", __restore_key__=(), keys=[sample.__key__ for sample in samples])


@edataclass
class _Raw(Sample):
    """A sample as it lies in the shard."""

    raw: dict[str, Any]


@stateless
def _cook_raw(raw: dict[str, Any]) -> _Raw:
    return _Raw(**basic_sample_keys(raw), raw=raw)


class _RawEncoder(TaskEncoder):
    cookers = (Cooker(_cook_raw),)
    decoder = None
