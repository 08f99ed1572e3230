"""The data loader: energon reads, shuffles and shards; this module turns its samples into encoded ones and resumes exactly."""

import multiprocessing
import multiprocessing.process
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import torch
from megatron.energon import SavableDataLoader, WorkerConfig, get_train_dataset, get_val_dataset
from megatron.energon.rng import SystemRng, SystemRngState
from megatron.energon.savable_loader import BasicDataLoader
from pydantic import BaseModel, ConfigDict, Field

from components.data.blend import blend_digest, blend_file
from components.data.encoder import READING_ERRORS, EncodedChunk, SampleEncoder, Skip, reading_error
from components.data.image_settings import ImageSettings
from components.data.packing import EncodedSample
from components.data.prompt_text import PromptFormat
from components.data.resume import (
    Layout,
    LoaderCounts,
    SavedLoader,
    check_identity,
    counts_of_rank,
    read_state,
    state_of_rank,
    workers_to_continue,
    write_state,
)
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError, StageError

_SHOWN_REASONS = 5
_LISTED_REASONS = 1000
_LEAST_DRAWN = 1000  # a share of fewer samples says little
# energon's own 10 cost a small model 5 % of its step. In a training's own process energon freezes nothing either: it would thaw
# what is frozen there as a pass ends, and each later collection looks through all libraries, a third of a small training.
_GARBAGE_COLLECTION_STEPS = 500
_WORKER_CHECKPOINT_S = 5.0


class LoaderSettings(BaseModel):
    """How samples are drawn and encoded.

    Attributes:
        prompt_format: "plain" for captions (pretraining), "instruct" for conversations (SFT).
        sequence_length: Most tokens of a sample, image tokens included. A longer one's end is cut; it is skipped if no answer is
            left. Both are counted.
        shuffle_buffer: Samples per worker that are held to draw from at random; 0 for none.
        samples_per_slice: Shards are cut into slices of at most this many samples, whose order is shuffled.
        workers: Worker processes per data-parallel rank; 0 loads in the training process.
        max_skip_share: Share of samples that may be skipped, from 0 to 1; more stops the run. It is taken of at least a
            thousand samples.
        seed: Seed of the order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_format: PromptFormat
    sequence_length: int = Field(gt=0)
    shuffle_buffer: int = Field(default=1000, ge=0)
    samples_per_slice: int = Field(default=100, gt=0)
    workers: int = Field(default=0, ge=0)
    max_skip_share: float = Field(default=0.01, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


class TrainingLoader:
    """Yields lists of exactly `samples_per_batch` samples, epoch after epoch, without end.

    Every data-parallel rank sees its own part of the training split. Ranks of one tensor-parallel group share their samples:
    one of them loads and broadcasts. The order of the global batches depends on the settings, the dataset, and the number of
    streams: data-parallel ranks x workers (none counts as one).

    Args:
        dataset_folder: Output of the energon split: holds `blend.yaml`.
        settings: How samples are drawn and encoded.
        tokenizer: The model's tokenizer.
        image: How pictures enter the model.
        samples_per_batch: Samples per data-parallel rank and step.
        data_parallel_rank: This process's data-parallel rank.
        data_parallel_size: Number of data-parallel ranks.

    Raises:
        InputError: The dataset is missing, would not be read as whole conversations, or is smaller than the number of streams.

    Attributes:
        counts: What became of the samples that were drawn so far, by this rank.
    """

    def __init__(
        self,
        dataset_folder: Path,
        settings: LoaderSettings,
        *,
        tokenizer: ChatTokenizer,
        image: ImageSettings,
        samples_per_batch: int,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
    ) -> None:
        self.counts = LoaderCounts()
        self._blend = blend_file(dataset_folder)
        self._settings = settings
        self._rank = data_parallel_rank
        self._encoder = _encoder(settings, tokenizer, image)
        self._layout = Layout(data_parallel_size, settings.workers, samples_per_batch * data_parallel_size)
        # What must be the same when a state is restored: energon's own state does not say.
        self._identity = {
            "settings": settings.model_dump(mode="json", exclude={"workers", "max_skip_share"}),
            "loader_workers": settings.workers,
            "global_batch_size": self._layout.global_batch,
            "dataset_sha256": blend_digest(self._blend),
        }
        self._loader = self._open()
        self._generators = _OwnGenerators()
        self._iterator: Iterator[EncodedChunk] | None = None
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._closed = False

    def __iter__(self) -> Self:
        """Return the loader itself: it is its own, endless iterator."""
        return self

    def __next__(self) -> list[EncodedSample]:
        """Return the next batch.

        Raises:
            InputError: A hundred samples in a row could not be used, or more than `max_skip_share` of all, or a shard could
                not be read.
        """
        self._check_open()
        with self._generators.in_use():
            if self._iterator is None:
                others = multiprocessing.active_children()
                self._iterator = iter(self._loader)
                chunks = [self._draw()]
                self._processes = [process for process in multiprocessing.active_children() if process not in others]
                _shield(self._processes)
            else:
                chunks = [self._draw()]
            chunks += [self._draw() for _ in range(1, self._layout.chunks)]
        for chunk in chunks:
            self._count(chunk)
        self._check_skips()
        return [sample for chunk in chunks for sample in chunk.samples()]

    @property
    def workers(self) -> int:
        """Worker processes of this rank; after a restore with another number of ranks it is not the settings' number."""
        return self._layout.workers

    def close(self) -> None:
        """End the worker processes; the loader can't be used any more.

        Not needed at the end of the process. Within one, energon's workers do not end when they are asked to, and torch
        waits five seconds for each of them.
        """
        for process in self._processes:
            process.terminate()  # torch's workers take this for a clean end when it comes from their parent
            process.join()
        self._processes = []
        self._closed = True

    def state(self) -> bytes:
        """Return the position after the last yielded batch, of this data-parallel rank."""
        self._check_open()  # energon would wait for ended workers for ever
        with self._generators.in_use():
            state = self._loader.save_state_rank()
        return write_state(SavedLoader(self._layout, self._identity, self.counts, state))

    def restore(self, states: Sequence[bytes]) -> None:
        """Continue where the states were taken: the next global batches are those that would have come.

        The number of data-parallel ranks may be another one, if it divides the number of streams: the number of workers
        then follows from it, whatever the settings say. Only before the first batch.

        Args:
            states: The states of all data-parallel ranks, in their order. They are JSON, not pickles: reading one can't run
                code.

        Raises:
            StageError: A state is damaged, of another version, or was taken with other settings, global batch or dataset; or
                the streams can't be spread over this number of ranks.
        """
        if self._iterator is not None:
            raise StageError("A loader state can only be restored before the first batch; make a new loader.")
        saved = [read_state(state) for state in states]
        for one in saved:
            check_identity(one, self._identity)
        ranks = self._layout.ranks
        workers = workers_to_continue(saved[0].layout, ranks)
        state = state_of_rank(saved, self._rank, ranks)
        if workers != self._layout.workers:
            self._layout = Layout(ranks, workers, self._layout.global_batch)
            self._loader = self._open()
        try:
            self._loader.restore_state_rank(state)
        except Exception as error:
            raise StageError(f"The data loader's state can't be restored: {error!r}") from error
        self.counts = counts_of_rank(saved, self._rank, ranks)

    def _open(self) -> Any:
        dataset = get_train_dataset(
            self._blend,
            worker_config=_worker_config(
                self._encoder, self._rank, self._layout.ranks, self._layout.workers, self._settings.seed
            ),
            batch_size=self._layout.chunk_size,
            shuffle_buffer_size=self._settings.shuffle_buffer or None,
            max_samples_per_sequence=self._settings.samples_per_slice,
            task_encoder=self._encoder,
        )
        if not all(dataset.len_worker(worker) for worker in range(max(1, self._layout.workers))):
            raise InputError(
                f"{self._blend} has fewer training samples than there are streams of them, {self._layout.streams} "
                "(data-parallel ranks x loader_workers). Lower loader_workers, or add data."
            )
        # A restore replays what came since a worker's last internal checkpoint: keep that short.
        loader = SavableDataLoader(
            dataset,
            checkpoint_every_sec=_WORKER_CHECKPOINT_S,
            gc_collect_every_n_steps=_GARBAGE_COLLECTION_STEPS,
            gc_freeze_at_start=self._layout.workers > 0,
            watchdog_timeout_seconds=None,
        )
        loader.pin_memory = torch.cuda.is_available()
        return loader

    def _check_open(self) -> None:
        if self._closed:
            raise StageError("The data loader was closed; make a new one.")

    def _draw(self) -> EncodedChunk:
        assert self._iterator is not None
        try:
            return next(self._iterator)
        except (EOFError, ConnectionError) as error:
            # A worker died while it handed a tensor over: the connection ends before torch hears of it.
            raise RuntimeError("DataLoader worker ended while it handed over a sample.") from error
        except READING_ERRORS as error:
            raise reading_error(error, self._blend) from None

    def _count(self, chunk: EncodedChunk) -> None:
        self.counts.drawn += len(chunk.keys)
        self.counts.truncated += chunk.truncated
        self.counts.skipped += len(chunk.skips)
        for skip in chunk.skips:
            if skip.key not in self.counts.reasons and len(self.counts.reasons) < _LISTED_REASONS:
                self.counts.reasons[skip.key] = skip.reason
                _show(skip, len(self.counts.reasons))

    def _check_skips(self) -> None:
        counts = self.counts
        if counts.skipped <= self._settings.max_skip_share * max(counts.drawn + counts.skipped, _LEAST_DRAWN):
            return
        examples = "; ".join(f"{key}: {reason}" for key, reason in list(counts.reasons.items())[:_SHOWN_REASONS])
        raise InputError(
            f"{counts.skipped} of {counts.drawn + counts.skipped} samples could not be used, more than max_skip_share "
            f"({self._settings.max_skip_share:g}) allows. The first: {examples}. Repair the dataset, or raise max_skip_share."
        )


def _shield(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Give worker processes process groups of their own.

    torchrun hands a SIGTERM to the process group of each rank. The rank saves a checkpoint then, for which it needs
    its workers: they would end at once, and end the rank with an error.
    """
    for process in processes:
        if process.pid is not None:
            with suppress(ProcessLookupError):  # ended already; the loader says so with the next batch
                os.setpgid(process.pid, process.pid)


class _OwnGenerators:
    """Global random generators of the loader's own.

    energon seeds the process's generators, draws from them and saves them. Loading in the training process would so
    decide over its dropout, and differently on ranks that load and on ranks that don't.
    """

    def __init__(self) -> None:
        self._state: SystemRngState | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the loader's generators in place of the process's for the length of a block."""
        outside = SystemRng.save_state()
        if self._state is not None:
            SystemRng.restore_state(self._state)
        try:
            yield
        finally:
            self._state = SystemRng.save_state()
            SystemRng.restore_state(outside)


class ValidationSamples(Iterator[EncodedSample]):
    """One pass over this rank's part of a split.

    Args:
        loader: energon's loader of single samples.
        encoder: The encoder that works for it.
        blend: The blend file that it reads.
    """

    def __init__(self, loader: Any, encoder: SampleEncoder, blend: Path) -> None:
        self._blend = blend
        self._encoder = encoder
        self._generators = _OwnGenerators()
        with self._generators.in_use():
            self._iterator = iter(loader)

    @property
    def skips(self) -> list[Skip]:
        """Samples left out so far."""
        return self._encoder.skips

    def __next__(self) -> EncodedSample:
        """Return the next sample.

        Raises:
            InputError: A hundred samples in a row could not be used, or a shard could not be read.
        """
        with self._generators.in_use():
            try:
                sample: EncodedSample = next(self._iterator).sample
            except READING_ERRORS as error:
                raise reading_error(error, self._blend) from None
        return sample


def validation_samples(
    dataset_folder: Path,
    settings: LoaderSettings,
    *,
    tokenizer: ChatTokenizer,
    image: ImageSettings,
    split: Literal["val", "test"] = "val",
    data_parallel_rank: int = 0,
    data_parallel_size: int = 1,
) -> ValidationSamples:
    """Return one deterministic pass over a split; the data-parallel ranks' parts are disjoint and together the whole.

    Args:
        dataset_folder: Output of the energon split: holds `blend.yaml`.
        settings: How samples are encoded; workers, shuffling and seed are not used.
        tokenizer: The model's tokenizer.
        image: How pictures enter the model.
        split: Which split.
        data_parallel_rank: This process's data-parallel rank.
        data_parallel_size: Number of data-parallel ranks.
    """
    encoder = _encoder(settings, tokenizer, image)
    blend = blend_file(dataset_folder)
    dataset = get_val_dataset(
        blend,
        split_part=split,
        worker_config=_worker_config(encoder, data_parallel_rank, data_parallel_size, workers=0, seed=0),
        batch_size=None,
        task_encoder=encoder,
    )
    loader = BasicDataLoader(
        dataset,
        gc_collect_every_n_steps=_GARBAGE_COLLECTION_STEPS,
        gc_freeze_at_start=False,
        watchdog_timeout_seconds=None,
    )
    loader.pin_memory = torch.cuda.is_available()
    return ValidationSamples(loader, encoder, blend)


def died_of_a_worker(error: RuntimeError) -> bool:
    """Return whether torch says with this error that a worker process ended; it may come at any moment, by a signal."""
    return "DataLoader worker" in str(error)


def _encoder(settings: LoaderSettings, tokenizer: ChatTokenizer, image: ImageSettings) -> SampleEncoder:
    return SampleEncoder(settings.prompt_format, settings.sequence_length, tokenizer, image)


def _worker_config(encoder: SampleEncoder, rank: int, size: int, workers: int, seed: int) -> WorkerConfig:
    return WorkerConfig(
        rank=rank,
        world_size=size,
        num_workers=workers,
        seed_offset=seed,
        global_error_handler=encoder.note_skip,
    )


def _show(skip: Skip, number: int) -> None:
    if number <= _SHOWN_REASONS:
        print(f"skipped sample {skip.key}: {skip.reason}", file=sys.stderr, flush=True)
    if number == _SHOWN_REASONS:
        print("further skipped samples are counted and listed, not shown", file=sys.stderr, flush=True)
