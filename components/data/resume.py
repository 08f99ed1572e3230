"""What a loader's state says beside energon's own, and what another number of data-parallel ranks can make of it.

energon draws every stream of samples (one per loader process, over all ranks) from a part of the shards of its own. The
same number of streams gives the same streams, however they are spread over ranks. A step takes one chunk of every
stream, so that the global batches are the same as well.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from megatron.energon.savable_loader import SavableDataLoaderState, SavableDatasetCheckpoint, SavableDatasetState

from components.data.loader_state import decode_state, encode_state
from components.errors import StageError

_MAGIC = b"VLM-LOADER-STATE 2\n"


@dataclass
class LoaderCounts:
    """What became of the samples that were drawn.

    Attributes:
        drawn: Samples that were yielded.
        truncated: Those of them whose end was cut.
        skipped: Samples that were left out, once for every time they came up.
        reasons: Key and reason of those that were left out.
    """

    drawn: int = 0
    truncated: int = 0
    skipped: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, other: "LoaderCounts") -> None:
        """Add another loader's counts."""
        self.drawn += other.drawn
        self.truncated += other.truncated
        self.skipped += other.skipped
        self.reasons |= other.reasons


@dataclass(frozen=True)
class Layout:
    """How a global batch is spread.

    Attributes:
        ranks: Data-parallel ranks.
        workers: Loader processes per rank; 0 is one stream too, drawn by the training process.
        global_batch: Samples of a step over all ranks.
    """

    ranks: int
    workers: int
    global_batch: int

    @property
    def streams(self) -> int:
        """Number of streams over all ranks."""
        return self.ranks * max(1, self.workers)

    @property
    def chunks(self) -> int:
        """Number of chunks that a rank puts into its part of a step: one of every stream, or the most that divides it."""
        return math.gcd(self.global_batch // self.ranks, max(1, self.workers))

    @property
    def chunk_size(self) -> int:
        """Samples of a chunk."""
        return self.global_batch // self.ranks // self.chunks


@dataclass(frozen=True)
class SavedLoader:
    """A state that was read.

    Attributes:
        layout: How the global batch was spread.
        identity: What must be the same, by name.
        counts: Counts of the rank that saved it.
        state: energon's own; None of a loader that had not begun.
    """

    layout: Layout
    identity: dict[str, Any]
    counts: LoaderCounts
    state: SavableDataLoaderState | None


def write_state(saved: SavedLoader) -> bytes:
    """Write a state as a header and energon's part, both JSON: reading it can't run code."""
    payload = encode_state(saved.state)
    header = {
        "layout": asdict(saved.layout),
        "identity": saved.identity,
        "counts": asdict(saved.counts),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
    }
    return _MAGIC + json.dumps(header, ensure_ascii=False).encode() + b"\n" + payload


def read_state(content: bytes) -> SavedLoader:
    """Read what `write_state` wrote.

    Raises:
        StageError: It is damaged or of another version.
    """
    if not content.startswith(_MAGIC):
        raise StageError(
            f"This is not a data loader state of this version: it starts with {content[:24]!r}, expected {_MAGIC!r}."
        )
    line, _, payload = content[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        if header["payload_sha256"] != hashlib.sha256(payload).hexdigest():
            raise ValueError("its checksum does not match")
        return SavedLoader(
            layout=Layout(**header["layout"]),
            identity=dict(header["identity"]),
            counts=LoaderCounts(**header["counts"]),
            state=decode_state(payload),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"The data loader's state is damaged ({error}). Resume from an older training checkpoint."
        ) from error


def check_identity(saved: SavedLoader, identity: dict[str, Any]) -> None:
    """Compare what must be the same.

    Raises:
        StageError: A value differs.
    """
    for name, expected in identity.items():
        found = saved.identity.get(name)
        if found != expected:
            raise StageError(
                f"The data loader's state was saved with {name} = {found}, this run has {expected}. "
                "Resume with the same value, or start a new run."
            )


def workers_to_continue(saved: Layout, ranks: int) -> int:
    """Return the number of loader processes per rank that continues the saved streams exactly.

    With the same number of ranks this is the saved number; with another one it is what keeps the number of streams.

    Args:
        saved: How it was.
        ranks: Data-parallel ranks now.

    Raises:
        StageError: There is no such number.
    """
    if saved.ranks == ranks:
        return saved.workers
    change = f"The number of data-parallel ranks changed from {saved.ranks} to {ranks}"
    if saved.chunks != max(1, saved.workers):
        raise StageError(
            f"{change}, and the sample order can't be continued: the {saved.global_batch // saved.ranks} samples of a rank "
            f"were no multiple of its {saved.workers} loader processes. Use {saved.ranks} data-parallel ranks."
        )
    if saved.streams % ranks:
        possible = [number for number in range(1, saved.streams + 1) if saved.streams % number == 0]
        raise StageError(
            f"{change}, and the sample order can't be continued: it has {saved.streams} streams (data-parallel ranks x "
            f"loader_workers), which can be spread over {', '.join(map(str, possible))} ranks. Use one of these numbers."
        )
    return saved.streams // ranks


def state_of_rank(saved: Sequence[SavedLoader], rank: int, ranks: int) -> SavableDataLoaderState | None:
    """Return what energon of one rank restores.

    Args:
        saved: The states of all ranks, in their order.
        rank: This data-parallel rank.
        ranks: The number of data-parallel ranks now; `workers_to_continue` accepted it.

    Raises:
        StageError: States are missing, or were not taken at the same step.
    """
    if len(saved) != saved[0].layout.ranks:
        raise StageError(f"{saved[0].layout.ranks} loader states were saved, but {len(saved)} are there.")
    if len(saved) == ranks:
        return saved[rank].state
    states = [one.state for one in saved]
    begun = [state for state in states if state is not None]
    if not begun:
        return None
    if len(begun) != len(states) or any(state.next_worker_id for state in begun):
        raise StageError("The loader states of the data-parallel ranks were not taken after the same step.")
    streams = [_as_worker(stream) for state in begun for stream in state.worker_states]
    share = len(streams) // ranks
    return SavableDataLoaderState(
        worker_states=streams[rank * share : (rank + 1) * share],
        next_worker_id=0,
        micro_batch_size=begun[0].micro_batch_size,
    )


def counts_of_rank(saved: Sequence[SavedLoader], rank: int, ranks: int) -> LoaderCounts:
    """Return the counts that a rank goes on with; with another number of ranks the first takes all."""
    if len(saved) == ranks:
        return saved[rank].counts
    counts = LoaderCounts()
    for one in saved if rank == 0 else ():
        counts.add(one.counts)
    return counts


def _as_worker(stream: Any) -> SavableDatasetCheckpoint:
    """Return a stream's state as a loader process restores it; one that the training process drew looks different."""
    if isinstance(stream, SavableDatasetCheckpoint):
        return stream
    (dataset_state,) = stream["datasets"]
    state = SavableDatasetState(rng=None, dataset_state=dataset_state, sample_index=stream["_sample_index"])
    return SavableDatasetCheckpoint(state=state, offset=0)
