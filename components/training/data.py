"""The samples of one training process: packed micro-batches, those of the validation split, and where its loader stands."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader, ValidationSamples, validation_samples
from components.data.packing import EncodedSample, PackedBatch, pack
from components.data.resume import LoaderCounts
from components.data.tokenizer import ChatTokenizer
from components.model.distributed import ParallelState, on_every_rank
from components.training.spec import TrainingSpec


class TrainingData:
    """What one process trains on and is validated with.

    One rank of a tensor-parallel group loads for all of them (see `batches.py`).

    Args:
        spec: The training.
        image: How pictures are prepared.
        tokenizer: The model's tokenizer.
        parallel: Where this process stands.

    Attributes:
        loads: Whether this process loads.
    """

    def __init__(
        self, spec: TrainingSpec, image: ImageSettings, tokenizer: ChatTokenizer, parallel: ParallelState
    ) -> None:
        self.loads = parallel.tensor_rank == 0
        self._spec, self._image, self._tokenizer, self._parallel = spec, image, tokenizer, parallel
        self._loader = self._open_loader() if self.loads else None

    def batches(self) -> Iterator[list[PackedBatch]]:
        """Yield the packed micro-batches of one step after the other, in a process that loads."""
        if self._loader is None:
            return
        for samples in self._loader:
            yield self._pack(samples)

    def validation_batches(self) -> list[PackedBatch] | None:
        """Return this data-parallel rank's share of the first validation samples; None in a process that does not load."""
        if not self.loads:
            return None
        share = math.ceil(self._spec.recipe.evaluation_samples / self._parallel.data_parallel)
        return self._pack(list(islice(self.validation_samples(), share)))

    def validation_samples(self) -> ValidationSamples:
        """Return this data-parallel rank's part of the validation split, from its beginning."""
        return validation_samples(
            self._spec.dataset_folder,
            self._settings(),
            tokenizer=self._tokenizer,
            image=self._image,
            data_parallel_rank=self._parallel.data_rank,
            data_parallel_size=self._parallel.data_parallel,
        )

    def state(self) -> bytes | None:
        """Return where the loader stands, for a checkpoint; None in a process that does not load."""
        return self._loader.state() if self._loader is not None else None

    def restore(self, states: Sequence[bytes]) -> None:
        """Go on where the loaders of all data-parallel ranks stood; there may have been another number of them.

        Raises:
            StageError: A state can't be restored.
        """
        if self._loader is None:
            return
        self._loader.restore(states)
        ranks = self._parallel.data_parallel
        if self._parallel.rank == 0 and len(states) != ranks:
            print(
                f"{self._spec.stage}: {ranks} data-parallel ranks go on where {len(states)} stopped: the same global batches, "
                f"from {self._loader.workers} loader processes per rank; other dropout",
                flush=True,
            )

    def counts(self) -> LoaderCounts:
        """Return what became of the samples of all processes; every process calls it."""
        own = self._loader.counts if self._loader is not None else LoaderCounts()
        total = LoaderCounts()
        for one in on_every_rank(lambda: own):
            total.add(one)
        return total

    def close(self) -> None:
        """End the loader's worker processes."""
        if self._loader is not None:
            self._loader.close()

    def _pack(self, samples: list[EncodedSample]) -> list[PackedBatch]:
        return pack(samples, self._spec.recipe.sequence_length)

    def _open_loader(self) -> TrainingLoader:
        return TrainingLoader(
            self._spec.dataset_folder,
            self._settings(),
            tokenizer=self._tokenizer,
            image=self._image,
            samples_per_batch=self._spec.recipe.global_batch_size // self._parallel.data_parallel,
            data_parallel_rank=self._parallel.data_rank,
            data_parallel_size=self._parallel.data_parallel,
        )

    def _settings(self) -> LoaderSettings:
        recipe = self._spec.recipe
        return LoaderSettings(
            prompt_format=recipe.prompt_format,
            sequence_length=recipe.sequence_length,
            shuffle_buffer=recipe.shuffle_buffer,
            workers=recipe.loader_workers,
            max_skip_share=recipe.max_skip_share,
            seed=recipe.seed,
        )
