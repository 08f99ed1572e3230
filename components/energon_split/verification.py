"""Reads every split back through energon: no sample may be lost, none may come twice."""

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

from components.errors import StageError
from components.stage.progress import Progress

_KEYS_PER_BATCH = 500
_SAMPLES_PER_WORKER = 20_000  # below this a worker's start costs more than it saves
_EXAMPLES = 3


def verify(
    blend: Path, splits: dict[str, list[str]], expected: int, processes: int, progress: Progress
) -> dict[str, int]:
    """Read all splits and count.

    Args:
        blend: The blend file, as training reads it.
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
        for keys in _keys(blend, split, workers) if shards else ():
            seen.update(keys)
            counts[split] += len(keys)
            progress.update(sum(counts.values()))
    repeated = [key for key, times in seen.items() if times > 1]
    if repeated or len(seen) != expected:
        raise StageError(
            f"Read back through energon, the splits of {blend} hold {len(seen)} samples ({len(repeated)} of them more than "
            f"once, such as {repeated[:_EXAMPLES]}); the conversion wrote {expected}. Delete the stage's folder and run again."
        )
    return counts


def _keys(blend: Path, split: str, workers: int) -> Iterator[list[str]]:
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers, global_error_handler=reraise_exception)
    dataset = get_val_dataset(
        blend, split_part=split, worker_config=config, batch_size=_KEYS_PER_BATCH, task_encoder=_KeyEncoder()
    )
    loader = get_loader(dataset, watchdog_timeout_seconds=None)
    loader.pin_memory = False
    for batch in loader:
        yield batch.keys


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
