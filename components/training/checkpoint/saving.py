"""Saves training checkpoints in the background: a step waits for a copy to host memory, not for the disk."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch.distributed.checkpoint.storage import WriteResult

from components.errors import StageError
from components.files import FileEntry
from components.model.checkpoint.sharded import save_sharded
from components.model.checkpoint.writer import BackgroundWriter, HostBuffers
from components.model.distributed import on_every_rank, on_first_rank
from components.model.vlm import VisionLanguageModel
from components.storage.atomic import flush_folder, write_bytes, write_text
from components.training.checkpoint.contents import (
    TENSORS_FOLDER,
    CheckpointFacts,
    Counters,
    bytes_to_write,
    loader_name,
    random_name,
    random_state,
    read_facts,
    training_state,
)
from components.training.checkpoint.integrity import file_entry, write_file_list
from components.training.checkpoint.layout import (
    FACTS_NAME,
    checkpoint_folder,
    checkpoints,
    take_out_of_sight,
    unfinished,
)
from components.training.checkpoint.retention import Retention
from components.training.optimizer import MasterWeightAdamW

_SPARE_SHARE = 0.02  # what serialisation and the file system add to the tensors
_SPARE_BYTES = 1 << 20


class CheckpointSaver:
    """Writes the checkpoints of one training, at most one at a time; every rank has one and calls the same methods.

    Files go to `iter_*.tmp`, which is renamed when all ranks are done. Whatever goes wrong before leaves the older
    checkpoints as they were.

    Args:
        folder: `<output>/training`.
        retention: Which checkpoints stay.
        start: Identity of the model that training started from.
        background: Copy to host memory and write while training goes on; without, `save` returns when all is written.
        guard: Called on the first rank before anything is renamed; raises when the folder is another training's by now.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        start: str,
        *,
        background: bool = True,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._retention = retention
        self._start = start
        self._guard = guard
        self._buffers = HostBuffers() if background else None
        self._pending: _Pending | None = None
        self._removal: threading.Thread | None = None

    @property
    def writing(self) -> bool:
        """Whether this rank's files are still being written."""
        return self._pending is not None and self._pending.thread.is_alive()

    def save(
        self,
        counters: Counters,
        model: VisionLanguageModel,
        optimizer: MasterWeightAdamW,
        loader_state: bytes | None,
        validation_loss: float | None = None,
    ) -> None:
        """Begin to write a checkpoint; the model may change afterwards. Waits for the one before.

        Args:
            counters: Progress after the step that was just finished.
            model: The model.
            optimizer: Its optimizer.
            loader_state: State of the loader on ranks that load, None on the others.
            validation_loss: Validation loss at this step, if it was measured.

        Raises:
            StageError: The space that is left does not suffice, or the checkpoint before could not be written.
        """
        self.finish()
        rank = torch.distributed.get_rank()
        data_rank = parallel_state.get_data_parallel_rank()
        tensor_rank = parallel_state.get_tensor_model_parallel_rank()
        own_files = {random_name(data_rank, tensor_rank): random_state()}
        if tensor_rank == 0:
            if loader_state is None:
                raise StageError(f"rank {rank} loads data but gave no loader state to save")
            own_files[loader_name(data_rank)] = loader_state
        state = training_state(model, optimizer)
        self._check_space(counters.step, bytes_to_write(state) + sum(map(len, own_files.values())))
        final = checkpoint_folder(self._folder, counters.step)
        temporary = unfinished(final)
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        write = BackgroundWriter(self._buffers)
        try:
            save_sharded(state, temporary / TENSORS_FOLDER, write)
        except StageError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._not_written(final, error) from error
        facts = CheckpointFacts(
            counters=counters.model_copy(),
            data_parallel=parallel_state.get_data_parallel_world_size(),
            tensor_parallel=parallel_state.get_tensor_model_parallel_world_size(),
            model=self._start,
            validation_loss=validation_loss,
        )
        self._pending = _Pending(final, facts, write, own_files)
        self._pending.thread.start()
        if self._buffers is None:
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and make it the newest.

        Raises:
            StageError: A rank could not write its part. The part is removed, the older checkpoints stay.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        pending.thread.join()
        try:
            written = on_every_rank(pending.written)
            on_first_rank(lambda: self._complete(pending, written))
        except (OSError, StageError) as error:
            if torch.distributed.get_rank() == 0:
                shutil.rmtree(unfinished(pending.final), ignore_errors=True)
            raise self._not_written(pending.final, error) from error
        on_first_rank(self._drop_superseded)

    def close(self) -> None:
        """Wait until superseded checkpoints are removed."""
        if self._removal is not None:
            self._removal.join()
            self._removal = None

    def _check_space(self, step: int, own_bytes: int) -> None:
        """Compare what all ranks will write with what is free, before anything is written or removed."""
        needed = int(sum(on_every_rank(lambda: own_bytes)) * (1 + _SPARE_SHARE)) + _SPARE_BYTES
        on_first_rank(lambda: self._check_free(step, needed))

    def _check_free(self, step: int, needed: int) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StageError(
                f"Too little space for the checkpoint of step {step}: it needs {needed / 1e6:,.1f} MB, "
                f"{free / 1e6:,.1f} MB are free at {self._folder}. Free some, or lower recipe.keep_checkpoints, "
                f"and run again. {self._whole()}"
            )

    def _complete(self, pending: "_Pending", written: "list[_Written]") -> None:
        """Write what makes a checkpoint of all ranks' files, and rename it; the first rank's part."""
        temporary = unfinished(pending.final)
        pending.write.finish([part.results for part in written])
        write_text(temporary / FACTS_NAME, pending.facts.model_dump_json(indent=2) + "\n")
        entries = {name: entry for part in written for name, entry in part.entries.items()}
        for path in (path for path in temporary.rglob("*") if path.is_file()):
            name = path.relative_to(temporary).as_posix()
            entries[name] = entries.get(name) or file_entry(path)
        write_file_list(temporary, entries)
        flush_folder(temporary / TENSORS_FOLDER)
        flush_folder(temporary)
        self._guard()
        temporary.rename(pending.final)
        flush_folder(self._folder)

    def _drop_superseded(self) -> None:
        """Take superseded checkpoints out of sight at once, and remove their files in the background."""
        marks = [read_facts(path).mark for path in checkpoints(self._folder)]
        old = [checkpoint_folder(self._folder, mark.step) for mark in self._retention.superseded(marks)]
        moved = [take_out_of_sight(path) for path in old]
        self.close()
        self._removal = threading.Thread(target=_remove, args=(moved,), daemon=True)
        self._removal.start()

    def _not_written(self, final: Path, error: OSError | StageError) -> StageError:
        free = shutil.disk_usage(self._folder).free
        said = error if isinstance(error, StageError) else f"rank {torch.distributed.get_rank()}: {error}"
        return StageError(
            f"The checkpoint {final} could not be written: {said} ({free / 1e6:,.1f} MB are free there). {self._whole()}"
        )

    def _whole(self) -> str:
        kept = checkpoints(self._folder)
        return f"Training goes on from {kept[-1]}." if kept else "There is no checkpoint before it."


@dataclass
class _Written:
    """What one rank has written.

    Attributes:
        results: Where its tensors are.
        entries: Its files, by their path relative to the checkpoint.
    """

    results: list[WriteResult]
    entries: dict[str, FileEntry]


class _Pending:
    """One rank's part of a checkpoint that is being written.

    Args:
        final: The checkpoint's folder when it is complete.
        facts: What it says of itself.
        write: The tensors, copied.
        own_files: Name to content of what this rank writes beside the tensors.
    """

    def __init__(
        self, final: Path, facts: CheckpointFacts, write: BackgroundWriter, own_files: dict[str, bytes]
    ) -> None:
        self.final = final
        self.facts = facts
        self.write = write
        self.thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._own_files = own_files
        self._outcome: _Written | Exception = RuntimeError("the writing thread ended without a word")

    def written(self) -> _Written:
        """Return what the thread has written, when it has ended; what it met is raised."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _run(self) -> None:
        folder = unfinished(self.final)
        try:
            results = self.write.write()
            for name, content in self._own_files.items():
                write_bytes(folder / name, content)
            names = {f"{TENSORS_FOLDER}/{result.storage_data.relative_path}" for result in results}
            self._outcome = _Written(results, {name: file_entry(folder / name) for name in [*names, *self._own_files]})
        except Exception as error:
            self._outcome = error


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
