"""The training loop: the same for pretraining and fine-tuning, laptop and cluster."""

import gc
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, get_args

import torch
from megatron.core import parallel_state

from components.data.image import normalise
from components.data.loader import died_of_a_worker
from components.data.packing import IGNORED_LABEL, PackedBatch
from components.data.tokenizer import ChatTokenizer
from components.errors import StageError
from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, ModelConfig, Part, read_model_config
from components.model.distributed import (
    ParallelState,
    destroy,
    initialize,
    make_repeatable,
    on_first_rank,
    seed_everything,
)
from components.model.vlm import build_model, count_parameters
from components.progress import Progress
from components.stage.runner import input_identity
from components.storage.lease import Lease
from components.tracking.metrics_file import METRICS_FILE
from components.tracking.tracker import StageTracker
from components.training.batches import share_batches
from components.training.checkpoint.contents import Counters
from components.training.checkpoint.integrity import newest_whole
from components.training.checkpoint.kept import copy_description, write_kept_models
from components.training.checkpoint.layout import checkpoints, clear_unfinished, kept_folder
from components.training.checkpoint.resume import load_checkpoint
from components.training.checkpoint.retention import Mark, Retention
from components.training.checkpoint.saving import CheckpointSaver
from components.training.curves import CURVES_NAME
from components.training.data import TrainingData
from components.training.devices import bf16_peak, memory_in_use
from components.training.divergence import SpikeGuard
from components.training.frozen_tower import features_of
from components.training.metrics import MetricsLog
from components.training.optimizer import MasterWeightAdamW
from components.training.results import write_results
from components.training.schedule import learning_rate
from components.training.spec import TrainingSpec
from components.training.stuck import StackWatch
from components.training.summary import TRAINING_FOLDER
from components.training.throughput import Throughput, step_work
from components.training.zero_shot import ZeroShot

_FINGERPRINT_FACTOR = 1_000_003
_FINGERPRINT_MODULUS = 2**61 - 1


def train(spec: TrainingSpec) -> bool:
    """Train from the spec's model folder, or go on from the newest training checkpoint below the output folder.

    Every process that torchrun starts calls this. The last step leaves a model folder (`checkpoint/`, `model.json`,
    `tokenizer/`), `metrics.jsonl`, `curves.svg`, `skipped_samples.json` and `summary.json` in the output folder.

    Returns:
        True when finished, False when a SIGTERM stopped it after a checkpoint was saved.

    Raises:
        StageError: The loss is not finite or stays far above the usual, a checkpoint can't be written, or none of those
            that there are can be restored.
    """
    parallel = initialize(spec.tensor_parallel)
    make_repeatable(parallel.device)
    try:
        training = _Training(spec, parallel)
        try:
            return training.run()
        except RuntimeError as error:
            if not died_of_a_worker(error):
                raise
            raise StageError(
                f"A loader process of {spec.stage} ended: {error} It may have run out of memory or of /dev/shm: lower "
                "recipe.loader_workers or recipe.shuffle_buffer, or give the job more memory."
            ) from error
        finally:
            training.close()
    finally:
        destroy()


@dataclass
class _StepResult:
    """What one optimizer step gives, summed over the global batch."""

    loss: float
    gradient_norm: float


class _Training:
    """State of one training process."""

    def __init__(self, spec: TrainingSpec, parallel: ParallelState) -> None:
        self.spec = spec
        self.recipe = spec.recipe
        self.folder = spec.output_folder
        self.parallel = parallel
        self.rank = parallel.rank
        self.device = parallel.device
        self.stacks = StackWatch()
        self.stacks.step()
        self.config: ModelConfig = read_model_config(spec.model_folder)
        self.tokenizer = ChatTokenizer.load(spec.model_folder / TOKENIZER_FOLDER)
        seed_everything(self.recipe.seed)
        self.dtype = torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32
        self.model = build_model(
            self.config,
            dtype=self.dtype,
            hidden_dropout=self.recipe.hidden_dropout,
            attention_dropout=self.recipe.attention_dropout,
            device=self.device,
            recompute=spec.memory.recompute,
        )
        self.trained = self.recipe.trained_parts
        self.model.freeze(set(get_args(Part)) - self.trained)
        self.counters = Counters()
        self.validation_loss: float | None = None  # at the step that the counters name, if it was measured there
        self.start = input_identity(spec.model_folder)
        self.retention = Retention(self.recipe.keep_checkpoints, self.recipe.keep_every, self.recipe.keep_best)
        self.lease = Lease(self.folder / TRAINING_FOLDER)  # the first rank's
        self.saver = CheckpointSaver(
            self.folder / TRAINING_FOLDER,
            self.retention,
            self.start,
            background=spec.memory.background_saving,
            guard=self.lease.check,
        )
        self.spike_guard = SpikeGuard(self.recipe.divergence_factor, self.recipe.divergence_steps)
        self.data = TrainingData(spec, self.config.image, self.tokenizer, parallel)
        self.optimizer = self._restore()
        self.tracker = StageTracker(spec.journal) if self.rank == 0 else StageTracker()
        self.metrics = (
            MetricsLog(self.folder / METRICS_FILE, self.counters.step, self.tracker) if self.rank == 0 else None
        )
        self.throughput = Throughput(self.config, self.trained, parallel.world_size, self._peak())
        self.zero_shot = self._open_zero_shot() if self.recipe.caption_interval else None
        self.stop_requested = False

    def run(self) -> bool:
        """Run the remaining steps; see `train`."""
        # Collect cycles where we say so: a collection in the middle of one rank's step makes all ranks wait.
        gc.disable()
        gc.collect()
        # What stands now stays to the end of the process: no collection looks through it, the one at the end included.
        gc.freeze()
        try:
            return self._run_steps()
        finally:
            gc.enable()

    def _run_steps(self) -> bool:
        signal.signal(signal.SIGTERM, self._request_stop)
        progress = Progress(self.spec.stage, self.spec.progress_file) if self.rank == 0 else None
        if progress is not None:
            progress.start("training", self.recipe.iterations, "steps", done=self.counters.step)
        batches = self.data.batches()
        if self.zero_shot is not None and self.counters.step == 0:
            self.zero_shot.measure(self.model, 0, self.tracker)  # for people, who want to see where it began; no metric
        self.throughput.restart()
        self.model.train()
        speed: dict[str, float] = {}
        while self.counters.step < self.recipe.iterations:
            self.stacks.step()
            self.lease.check()
            result = self._step(batches)
            step = self.counters.step
            row: dict[str, float | str] = {}
            self.validation_loss = None
            if step % self.recipe.log_interval == 0 or step == self.recipe.iterations:
                rates = self.throughput.rates()
                speed = {"samples/s": rates["samples_per_s"]}
                row = {
                    "loss": result.loss,
                    "learning_rate": self._learning_rate(step),
                    "gradient_norm": result.gradient_norm,
                    "consumed_samples": float(self.counters.samples),
                    "samples_fingerprint": f"{self.counters.fingerprint:016x}",
                    **rates,
                    **memory_in_use(self.device),
                }
            if self._reached(step, self.recipe.evaluation_interval):
                row["validation_loss"] = self.validation_loss = self._measure_validation_loss()
            if self.zero_shot is not None and self._reached(step, self.recipe.caption_interval):
                row.update(self.zero_shot.measure(self.model, step, self.tracker))
            if row and self.metrics is not None:
                self.metrics.log(step, row)
            if "loss" in row:
                gc.collect(1)  # the young ones: milliseconds
                self.throughput.restart()
            if progress is not None:
                progress.update(step, force=False, loss=result.loss, **speed)
            stop, writing = self._agree()
            stall = time.perf_counter()  # not before: a GPU still updates the weights, and to agree waits for it
            if not writing:
                self.saver.finish()
            if stop:
                self._save()
                self.saver.finish()
                self.saver.close()
                return False
            if step % self.recipe.save_interval == 0 and step < self.recipe.iterations:
                self._save()
                gc.collect()
                self.throughput.add_save(time.perf_counter() - stall)
        self._finish()
        return True

    def close(self) -> None:
        """End the loader's worker processes, and let the folder go."""
        self.stacks.end()
        self.data.close()
        self.lease.release()

    def _step(self, batches: Iterator[list[PackedBatch]]) -> _StepResult:
        """Consume one global batch and update the weights once."""
        waited = time.perf_counter()
        own = next(batches) if self.data.loads else None
        waited = time.perf_counter() - waited  # without the copy to a GPU, which waits for the step before
        micro_batches = share_batches(own, self.device)
        work = step_work(micro_batches, self.trained, self.device)
        answer_tokens = work.forward.answers
        if answer_tokens == 0:
            raise StageError("A whole global batch has no answer token to train on. Is the dataset's text empty?")
        loss = torch.zeros((), device=self.device)
        for batch, features in zip(micro_batches, self._frozen_features(micro_batches), strict=True):
            micro_loss = self._loss_sum(batch, features) / answer_tokens
            if micro_loss.requires_grad:  # texts alone do not touch a projector that trains alone
                micro_loss.backward()
            loss += micro_loss.detach()
        _sum_over_data_parallel(loss)
        step = self.counters.step + 1
        if not math.isfinite(float(loss)):
            raise self._diverged(f"The loss of step {step} is {float(loss)}")
        if self.spike_guard.diverges(float(loss)):
            raise self._diverged(
                f"The loss was more than recipe.divergence_factor ({self.recipe.divergence_factor:g}) times the usual for "
                f"{self.recipe.divergence_steps} steps; that of step {step} is {float(loss):.4g}"
            )
        norm = self.optimizer.step(self._learning_rate(step))
        if not math.isfinite(norm):
            raise self._diverged(f"The gradient norm of step {step} is {norm}")
        self.counters.step = step
        self.counters.fingerprint = (
            self.counters.fingerprint * _FINGERPRINT_FACTOR + work.keys_checksum
        ) % _FINGERPRINT_MODULUS
        self.counters.samples += work.samples
        self.counters.tokens += work.forward.tokens
        self.throughput.add(work, waited)
        return _StepResult(float(loss), norm)

    def _frozen_features(self, batches: Sequence[PackedBatch]) -> Iterator[torch.Tensor | None]:
        """Yield, batch by batch, what a frozen tower sees; None where there is no picture, or where the tower trains."""
        if self.model.trains_vision:
            return (None for _ in batches)
        return features_of(batches, lambda *pictures: self.model.vision_features(self._pixels(*pictures)))

    def _pixels(self, pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return normalise(pixels, valid, self.config.image).to(self.dtype)

    def _loss_sum(self, batch: PackedBatch, features: torch.Tensor | None) -> torch.Tensor:
        pixels = self._pixels(batch.pixels, batch.valid) if features is None and len(batch.pixels) else None
        loss: torch.Tensor = self.model(batch, pixels, features=features, compute_loss=True)
        return loss.sum()

    def _measure_validation_loss(self) -> float:
        """Return the mean loss per answer token over the first validation samples."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            batches = share_batches(self.data.validation_batches(), self.device)
            for batch, features in zip(batches, self._frozen_features(batches), strict=True):
                total[0] += self._loss_sum(batch, features)
                total[1] += (batch.labels != IGNORED_LABEL).sum()
        self.model.train()
        _sum_over_data_parallel(total)
        if total[1] == 0:
            raise StageError(f"The validation split of {self.spec.dataset_folder} has no answer tokens.")
        loss = float(total[0] / total[1])
        if not math.isfinite(loss):
            raise self._diverged(f"The validation loss of step {self.counters.step} is {loss}")
        return loss

    def _open_zero_shot(self) -> ZeroShot:
        return ZeroShot(
            self.data.validation_samples(),
            self.recipe.caption_samples,
            tokenizer=self.tokenizer,
            parallel=self.parallel,
            output=self.folder,
            title=self.spec.stage,
        )

    def _restore(self) -> MasterWeightAdamW:
        """Load the starting weights, and over them everything of the newest whole training checkpoint, if there is one."""
        folder = self.folder / TRAINING_FOLDER
        on_first_rank(self.lease.acquire)
        on_first_rank(lambda: clear_unfinished(folder))
        newest = newest_whole(folder, self.spec.stage)
        load_model(self.model, self.spec.model_folder / CHECKPOINT_FOLDER)
        optimizer = MasterWeightAdamW(self.model, self.recipe, shard=self.spec.memory.shard_optimizer)
        if newest is None:
            return optimizer
        facts, loader_states = load_checkpoint(newest, self.model, optimizer, start=self.start, seed=self.recipe.seed)
        self.counters, self.validation_loss = facts.counters, facts.validation_loss
        self.data.restore(loader_states)
        if self.rank == 0:
            print(f"{self.spec.stage}: resumed at step {self.counters.step} from {newest}", flush=True)
        return optimizer

    def _save(self) -> None:
        self.saver.save(self.counters, self.model, self.optimizer, self.data.state(), self.validation_loss)

    def _diverged(self, what: str) -> StageError:
        """Return the error that ends a diverging run; a checkpoint that is being written becomes the last good one."""
        self.saver.finish()
        kept = checkpoints(self.folder / TRAINING_FOLDER)
        return StageError(
            f"{what}: training diverged. Lower recipe.learning_rate. "
            f"Last good checkpoint: {kept[-1] if kept else 'none yet'}."
        )

    def _finish(self) -> None:
        """Write the model folders; the resumable checkpoints have done their work and are removed by the stage."""
        self.saver.finish()
        save_model(self.model, self.folder / CHECKPOINT_FOLDER)
        models = write_kept_models(
            self.folder,
            self.folder / TRAINING_FOLDER,
            self.spec.model_folder,
            self.model,
            self.retention,
            Mark(self.counters.step, self.validation_loss),
        )
        self.saver.close()
        counts = self.data.counts()
        if self.rank != 0:
            return
        copy_description(self.spec.model_folder, self.folder)
        facts = {
            **self.counters.model_dump(exclude={"fingerprint"}),
            "samples_fingerprint": f"{self.counters.fingerprint:016x}",
            "tensor_parallel": self.spec.tensor_parallel,
            "data_parallel": self.parallel.data_parallel,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "parameters_per_rank": count_parameters(self.model),
            **self._best(models),
        }
        write_results(self.folder, self.spec.stage, facts, counts)
        self.tracker.log_artifact(self.folder / CURVES_NAME)

    def _best(self, models: list[Mark]) -> dict[str, Any]:
        """Return which of the models that stay is the best, where recipe.keep_best asks for it; MLflow is told too."""
        if not self.recipe.keep_best:
            return {}
        best = self.retention.ranked(models)[0]
        folder = self.folder if best.step == self.counters.step else kept_folder(self.folder, best.step)
        found = {"best_step": best.step, "best_validation_loss": best.validation_loss, "best_model": str(folder)}
        for name, value in found.items():
            self.tracker.set_tags({f"vlm.{name}": str(value)})
        return found

    def _reached(self, step: int, interval: int) -> bool:
        """Return whether something that is done every `interval` steps and at the end is due; 0 for never."""
        return interval > 0 and (step % interval == 0 or step == self.recipe.iterations)

    def _peak(self) -> float | None:
        """Return what a device can do at most in this precision, if that is known."""
        if self.device.type != "cuda" or self.dtype != torch.bfloat16:
            return None
        return bf16_peak(torch.cuda.get_device_name(self.device))

    def _learning_rate(self, step: int) -> float:
        recipe = self.recipe
        return learning_rate(
            step,
            iterations=recipe.iterations,
            peak=recipe.learning_rate,
            minimum=recipe.min_learning_rate,
            warmup_fraction=recipe.warmup_fraction,
        )

    def _request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def _agree(self) -> tuple[bool, bool]:
        """Return whether any rank was asked to stop, and whether any still writes a checkpoint.

        All ranks get the same answer, so that they stop, and complete the checkpoint, after the same step.
        """
        flags = torch.tensor([self.stop_requested, self.saver.writing], dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        stop, writing = flags.tolist()
        return bool(stop), bool(writing)


def _sum_over_data_parallel(tensor: torch.Tensor) -> None:
    if parallel_state.get_data_parallel_world_size() > 1:
        torch.distributed.all_reduce(tensor, group=parallel_state.get_data_parallel_group())
