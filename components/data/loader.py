"""The data loader: energon reads, shuffles and shards; this module turns its samples into encoded ones and resumes exactly."""

import hashlib
import io
import json
import multiprocessing
import multiprocessing.process
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
import yaml
from megatron.energon import (
    Cooker,
    Sample,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_savable_loader,
    get_train_dataset,
    get_val_dataset,
)
from megatron.energon.errors import FatalSampleError
from megatron.energon.rng import SystemRng, SystemRngState
from megatron.energon.task_encoder.base import stateless
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from components.data.image_settings import ImageSettings
from components.data.loader_state import decode_state, encode_state
from components.data.packing import EncodedSample, truncate
from components.data.prompt import PromptFormat, encode_conversation
from components.data.tokenizer import ChatTokenizer
from components.errors import InputError, StageError

BLEND_FILE = "blend.yaml"
IMAGE_FIELDS = ("jpg", "png", "webp")
CONVERSATION_FIELD = "json"
"""Fields of a sample in a shard: at most one picture, its bytes as they came, and the list of conversation turns."""

_STATE_MAGIC = b"VLM-LOADER-STATE 1\n"
_SHOWN_REASONS = 5
_GARBAGE_COLLECTION_STEPS = 500  # energon's own 10 cost a small model 5 % of its step
_WORKER_CHECKPOINT_S = 5.0


class LoaderSettings(BaseModel):
    """How samples are drawn and encoded.

    Attributes:
        prompt_format: "plain" for captions (pretraining), "instruct" for conversations (SFT).
        sequence_length: Most tokens of a sample, image tokens included.
        overlong: What happens to a longer sample: "truncate" cuts its end, and skips it if no answer is left; "skip" leaves it
            out. Both are counted.
        shuffle_buffer: Samples per worker that are held to draw from at random; 0 for none.
        samples_per_slice: Shards are cut into slices of at most this many samples, whose order is shuffled.
        workers: Worker processes per data-parallel rank; 0 loads in the training process.
        seed: Seed of the order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_format: PromptFormat
    sequence_length: int = Field(gt=0)
    overlong: Literal["truncate", "skip"] = "truncate"
    shuffle_buffer: int = Field(default=1000, ge=0)
    samples_per_slice: int = Field(default=100, gt=0)
    workers: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)


class TrainingLoader:
    """Yields lists of exactly `samples_per_batch` samples, epoch after epoch, without end.

    Every data-parallel rank sees its own part of the training split. Ranks of one tensor-parallel group share their samples:
    one of them loads and broadcasts. The order depends on the settings, the number of data-parallel ranks and the dataset.

    Args:
        dataset_folder: Output of the energon split: holds `blend.yaml`.
        settings: How samples are drawn and encoded.
        tokenizer: The model's tokenizer.
        image: How pictures enter the model.
        samples_per_batch: Samples per data-parallel rank and step.
        data_parallel_rank: This process's data-parallel rank.
        data_parallel_size: Number of data-parallel ranks.

    Attributes:
        skipped: Samples that were left out so far because they could not be decoded or encoded, within what was yielded.
        truncated: Samples among those yielded whose end was cut.
        skip_reasons: The first few reasons, each with the sample's key.
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
        blend = _blend_file(dataset_folder)
        self.skipped = 0
        self.truncated = 0
        self.skip_reasons: list[str] = []
        # What must be the same when a state is restored: energon's own state does not say.
        self._identity = {
            "settings": settings.model_dump(mode="json"),
            "samples_per_batch": samples_per_batch,
            "data_parallel_rank": data_parallel_rank,
            "data_parallel_size": data_parallel_size,
            "dataset_sha256": _dataset_digest(blend),
        }
        encoder = _Encoder(settings, tokenizer, image)
        dataset = get_train_dataset(
            blend,
            worker_config=_worker_config(
                encoder, data_parallel_rank, data_parallel_size, settings.workers, settings.seed
            ),
            batch_size=samples_per_batch,
            shuffle_buffer_size=settings.shuffle_buffer or None,
            max_samples_per_sequence=settings.samples_per_slice,
            task_encoder=encoder,
        )
        # A restore replays what came since a worker's last internal checkpoint: keep that short.
        self._loader = get_savable_loader(
            dataset,
            checkpoint_every_sec=_WORKER_CHECKPOINT_S,
            gc_collect_every_n_steps=_GARBAGE_COLLECTION_STEPS,
            watchdog_timeout_seconds=None,
        )
        self._loader.pin_memory = torch.cuda.is_available()
        self._generators = _OwnGenerators()
        self._iterator: Iterator[_EncodedBatch] | None = None
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._closed = False

    def __iter__(self) -> Self:
        """Return the loader itself: it is its own, endless iterator."""
        return self

    def __next__(self) -> list[EncodedSample]:
        """Return the next batch.

        Raises:
            InputError: A hundred samples in a row could not be used.
        """
        self._check_open()
        with self._generators.in_use():
            if self._iterator is None:
                self._iterator = iter(self._loader)
                others = multiprocessing.active_children()
                batch = self._draw()
                self._processes = [process for process in multiprocessing.active_children() if process not in others]
            else:
                batch = self._draw()
        self.skipped += batch.skipped
        self.truncated += batch.truncated
        self.skip_reasons = (self.skip_reasons + batch.reasons)[:_SHOWN_REASONS]
        return _split(batch)

    def _check_open(self) -> None:
        if self._closed:
            raise StageError("The data loader was closed; make a new one.")

    def _draw(self) -> "_EncodedBatch":
        assert self._iterator is not None
        try:
            return next(self._iterator)
        except FatalSampleError as error:
            raise InputError(f"The dataset can't be used, too many samples in a row fail: {error}") from error

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
            payload = encode_state(self._loader.save_state_rank())
        header = {
            "identity": self._identity,
            "counters": {"skipped": self.skipped, "truncated": self.truncated, "skip_reasons": self.skip_reasons},
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
        }
        return _STATE_MAGIC + json.dumps(header, ensure_ascii=False).encode() + b"\n" + payload

    def restore(self, state: bytes) -> None:
        """Continue where `state` was taken: the next batches are those that would have come. Only before the first batch.

        The state is JSON, not a pickle: reading one can't run code.

        Raises:
            StageError: The state is damaged, of another version, or was taken with other settings, samples per batch,
                data-parallel rank or size, or dataset.
        """
        if self._iterator is not None:
            raise StageError("A loader state can only be restored before the first batch; make a new loader.")
        header, payload = _open_state(state)
        for name, expected in self._identity.items():
            found = header["identity"].get(name)
            if found != expected:
                raise StageError(
                    f"The data loader's state was saved with {name} = {found}, this run has {expected}. "
                    "Resume with the same value, or start a new run."
                )
        try:
            self._loader.restore_state_rank(decode_state(payload))
        except Exception as error:
            raise StageError(f"The data loader's state can't be restored: {error}") from error
        self.skipped = header["counters"]["skipped"]
        self.truncated = header["counters"]["truncated"]
        self.skip_reasons = header["counters"]["skip_reasons"]


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

    Attributes:
        skipped: Samples left out so far because they could not be decoded or encoded.
        skip_reasons: The first few reasons, each with the sample's key.
    """

    def __init__(self, loader: Any, encoder: "_Encoder") -> None:
        self._encoder = encoder
        self._generators = _OwnGenerators()
        with self._generators.in_use():
            self._iterator = iter(loader)

    @property
    def skipped(self) -> int:
        """Number of samples left out so far."""
        return self._encoder.skipped

    @property
    def skip_reasons(self) -> list[str]:
        """The first few reasons."""
        return self._encoder.reasons

    def __next__(self) -> EncodedSample:
        """Return the next sample."""
        with self._generators.in_use():
            sample: EncodedSample = next(self._iterator).sample
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
    encoder = _Encoder(settings, tokenizer, image)
    dataset = get_val_dataset(
        _blend_file(dataset_folder),
        split_part=split,
        worker_config=_worker_config(encoder, data_parallel_rank, data_parallel_size, workers=0, seed=0),
        batch_size=None,
        task_encoder=encoder,
    )
    loader = get_loader(dataset, watchdog_timeout_seconds=None)
    loader.pin_memory = torch.cuda.is_available()
    return ValidationSamples(loader, encoder)


@edataclass
class _RawSample(Sample):
    """A sample as it lies in the shard: this is what the shuffle buffer holds."""

    picture: bytes | None
    conversation: bytes


@edataclass
class _Encoded(Sample):
    """An encoded sample on its way through energon."""

    sample: EncodedSample
    cut: bool


@edataclass
class _EncodedBatch(Sample):
    """A batch as few tensors, which pass from worker to trainer much faster than many small ones."""

    keys: list[str]
    lengths: list[int]
    pictures: list[int]
    tokens: Tensor
    labels: Tensor
    pixels: Tensor
    valid: Tensor
    skipped: int
    truncated: int
    reasons: list[str]


@stateless
def _cook(raw: dict[str, Any]) -> _RawSample:
    picture = next((raw[field] for field in IMAGE_FIELDS if field in raw), None)
    return _RawSample(**basic_sample_keys(raw), picture=picture, conversation=raw[CONVERSATION_FIELD])


class _Encoder(TaskEncoder):
    """energon's hooks: how a raw sample is encoded, how a batch is formed, what happens to errors."""

    cookers = (Cooker(_cook),)
    decoder = None

    def __init__(self, settings: LoaderSettings, tokenizer: ChatTokenizer, image: ImageSettings) -> None:
        super().__init__()
        self._settings = settings
        self._tokenizer = tokenizer
        self._image = image
        self.skipped = 0
        self.reasons: list[str] = []

    def note_skip(self, error: Exception, sample: Any, sources: Any = None) -> None:
        """Count a sample that can't be used: energon's error handler."""
        key = sample.get("__key__") if isinstance(sample, dict) else getattr(sample, "__key__", None)
        reason = f"{key or 'unknown sample'}: {error}"
        self.skipped += 1
        if len(self.reasons) < _SHOWN_REASONS:
            self.reasons.append(reason)
        print(f"skipped sample {reason}", file=sys.stderr, flush=True)

    @stateless
    def encode_sample(self, sample: _RawSample) -> _Encoded:
        """Decode the picture and encode the conversation."""
        encoded = encode_conversation(
            json.loads(sample.conversation),
            _open_picture(sample.picture),
            tokenizer=self._tokenizer,
            settings=self._image,
            prompt_format=self._settings.prompt_format,
            key=sample.__key__,
        )
        fitting = self._fit(encoded)
        return _Encoded.derive_from(sample, sample=fitting, cut=fitting is not encoded)

    @stateless
    def batch(self, samples: list[_Encoded]) -> _EncodedBatch:
        """Join samples, and hand over what was skipped since the last batch."""
        parts = [sample.sample for sample in samples]
        skipped, reasons = self.skipped, self.reasons
        self.skipped, self.reasons = 0, []
        return _EncodedBatch(
            __key__=parts[0].key,
            __restore_key__=(),
            keys=[part.key for part in parts],
            lengths=[part.length for part in parts],
            pictures=[part.pixels.shape[0] for part in parts],
            tokens=torch.cat([part.tokens for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            pixels=torch.cat([part.pixels for part in parts]),
            valid=torch.cat([part.valid for part in parts]),
            skipped=skipped,
            truncated=sum(sample.cut for sample in samples),
            reasons=reasons,
        )

    def _fit(self, sample: EncodedSample) -> EncodedSample:
        limit = self._settings.sequence_length
        if self._settings.overlong == "skip" and sample.length > limit:
            raise InputError(f"{sample.length} tokens are more than the sequence length {limit}")
        return truncate(sample, limit)


def _open_picture(content: bytes | None) -> Image.Image | None:
    return None if content is None else Image.open(io.BytesIO(content))


def _split(batch: _EncodedBatch) -> list[EncodedSample]:
    parts = zip(
        batch.keys,
        batch.tokens.split(batch.lengths),
        batch.labels.split(batch.lengths),
        batch.pixels.split(batch.pictures),
        batch.valid.split(batch.pictures),
        strict=True,
    )
    return [EncodedSample(*part) for part in parts]


def _worker_config(encoder: _Encoder, rank: int, size: int, workers: int, seed: int) -> WorkerConfig:
    return WorkerConfig(
        rank=rank,
        world_size=size,
        num_workers=workers,
        seed_offset=seed,
        global_error_handler=encoder.note_skip,
    )


def _blend_file(dataset_folder: Path) -> Path:
    path = dataset_folder / BLEND_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist. Expected the folder that the energon split left.")
    return path


def _dataset_digest(blend: Path) -> str:
    """Identify what the blend file names: its text, and every dataset's split and the place of every sample in its shards."""
    digest = hashlib.sha256(blend.read_bytes())
    for folder in _dataset_folders(yaml.safe_load(blend.read_text(encoding="utf-8")), blend.parent):
        meta = [folder / ".nv-meta" / name for name in (".info.json", "split.yaml")]
        for path in [*meta, *sorted(folder.glob("**/*.tar.idx"))]:
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _dataset_folders(node: Any, base: Path) -> list[Path]:
    if isinstance(node, dict):
        here = [base / node["path"]] if isinstance(node.get("path"), str) else []
        return here + [folder for value in node.values() for folder in _dataset_folders(value, base)]
    if isinstance(node, list):
        return [folder for value in node for folder in _dataset_folders(value, base)]
    return []


def _open_state(state: bytes) -> tuple[dict[str, Any], bytes]:
    if not state.startswith(_STATE_MAGIC):
        raise StageError(
            f"This is not a data loader state of this version: it starts with {state[:24]!r}, expected {_STATE_MAGIC!r}."
        )
    line, _, payload = state[len(_STATE_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        intact = header["payload_sha256"] == hashlib.sha256(payload).hexdigest() and "counters" in header
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise StageError(
            "The data loader's state is damaged: its checksum does not match. Resume from an older checkpoint."
        )
    return header, payload
