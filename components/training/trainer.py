"""The training loop: the same for pretraining and fine-tuning, laptop and cluster."""

import gc
import math
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any, get_args

import torch
from megatron.core import parallel_state

from components.data.image import normalise
from components.data.loader import (
    LoaderSettings,
    TrainingLoader,
    ValidationSamples,
    died_of_a_worker,
    validation_samples,
)
from components.data.packing import IGNORED_LABEL, EncodedSample, PackedBatch, pack
from components.data.resume import LoaderCounts
from components.data.tokenizer import ChatTokenizer
from components.errors import StageError
from components.model.checkpoint import load_model, save_model
from components.model.config import CHECKPOINT_FOLDER, MODEL_FILE, TOKENIZER_FOLDER, ModelConfig, read_model_config
from components.model.distributed import ParallelState, destroy, initialize, seed_everything
from components.model.vlm import Part, build_model, count_parameters
from components.stage.progress import Progress
from components.storage.atomic import write_json, write_text
from components.tracking.tracker import METRICS_FILE, StageTracker, attach
from components.training.batches import share_batches
from components.training.checkpoints import Counters, checkpoints, load_checkpoint, save_checkpoint
from components.training.config import Recipe
from components.training.devices import bf16_peak, memory_in_use
from components.training.metrics import CURVES_NAME, MetricsLog, curves_svg, read_metrics
from components.training.optimizer import MasterWeightAdamW
from components.training.schedule import learning_rate
from components.training.spec import TrainingSpec
from components.training.summary import SKIPPED_NAME, SUMMARY_NAME, TRAINING_FOLDER
from components.training.throughput import RATES, Throughput, step_work
from components.training.zero_shot import ZeroShot


def train(spec: TrainingSpec) -> bool:
    """Train from the spec's model folder, or go on from the newest training checkpoint below the output folder.

    Every process that torchrun starts calls this. The last step leaves a model folder (`checkpoint/`, `model.json`,
    `tokenizer/`), `metrics.jsonl`, `curves.svg`, `skipped_samples.json` and `summary.json` in the output folder.

    Returns:
        True when finished, False when a SIGTERM stopped it after a checkpoint was saved.

    Raises:
        StageError: The loss is not finite, or a checkpoint can't be restored.
    """
    parallel = initialize(spec.tensor_parallel)
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
        self.loads_data = parallel.tensor_rank == 0
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
        self.trained = _trained_parts(self.recipe)
        self.model.freeze(set(get_args(Part)) - self.trained)
        self.counters = Counters()
        self.loader = self._open_loader() if self.loads_data else None
        self.optimizer = self._restore()
        self.tracker = self._attach() if self.rank == 0 else StageTracker()
        self.metrics = (
            MetricsLog(self.folder / METRICS_FILE, self.counters.step, self.tracker) if self.rank == 0 else None
        )
        self.throughput = Throughput(self.config, self.trained, parallel.world_size, self._peak())
        self.zero_shot = self._open_zero_shot() if self.recipe.caption_interval else None
        self.stop_requested = False

    def run(self) -> bool:
        """Run the remaining steps; see `train`."""
        signal.signal(signal.SIGTERM, self._request_stop)
        progress = Progress(self.spec.stage, self.spec.progress_file) if self.rank == 0 else None
        if progress is not None:
            progress.start("training", self.recipe.iterations, "steps", done=self.counters.step)
        batches = self._local_batches()
        self.throughput.restart()
        self.model.train()
        # Collect cycles where we say so: a collection in the middle of one rank's step makes all ranks wait.
        gc.disable()
        speed: dict[str, float] = {}
        while self.counters.step < self.recipe.iterations:
            result = self._step(batches)
            step = self.counters.step
            row: dict[str, float] = {}
            if step % self.recipe.log_interval == 0 or step == self.recipe.iterations:
                row = {
                    "loss": result.loss,
                    "learning_rate": self._learning_rate(step),
                    "gradient_norm": result.gradient_norm,
                    "consumed_samples": float(self.counters.samples),
                    **self.throughput.rates(),
                    **memory_in_use(self.device),
                }
            if self._reached(step, self.recipe.evaluation_interval):
                row["validation_loss"] = self._validation_loss()
            if self.zero_shot is not None and self._reached(step, self.recipe.caption_interval):
                row.update(self.zero_shot.measure(self.model, step, self.tracker))
            if row and self.metrics is not None:
                self.metrics.log(step, row)
            if "loss" in row:
                speed = {"samples/s": row["samples_per_s"]}
                self.throughput.restart()
            if progress is not None:
                progress.update(step, force=False, loss=result.loss, **speed)
            if self._agreed_to_stop():
                self._save()
                self.tracker.flush()
                return False
            if step % self.recipe.save_interval == 0 and step < self.recipe.iterations:
                self._save()
                gc.collect()
        self._finish()
        return True

    def close(self) -> None:
        """End the loader's worker processes."""
        if self.loader is not None:
            self.loader.close()

    def _step(self, batches: Iterator[list[PackedBatch]]) -> _StepResult:
        """Consume one global batch and update the weights once."""
        waited = time.perf_counter()
        micro_batches = share_batches(next(batches) if self.loads_data else None, self.device)
        waited = time.perf_counter() - waited
        work = step_work(micro_batches, self.trained, self.device)
        answer_tokens = work.forward.answers
        if answer_tokens == 0:
            raise StageError("A whole global batch has no answer token to train on. Is the dataset's text empty?")
        loss = torch.zeros((), device=self.device)
        for batch in micro_batches:
            micro_loss = self._loss_sum(batch) / answer_tokens
            if micro_loss.requires_grad:  # texts alone do not touch a projector that trains alone
                micro_loss.backward()
            loss += micro_loss.detach()
        _sum_over_data_parallel(loss)
        step = self.counters.step + 1
        if not math.isfinite(float(loss)):
            kept = checkpoints(self.folder / TRAINING_FOLDER)
            raise StageError(
                f"The loss of step {step} is {float(loss)}: training diverged. Lower recipe.learning_rate. "
                f"Last good checkpoint: {kept[-1] if kept else 'none yet'}."
            )
        norm = self.optimizer.step(self._learning_rate(step))
        self.counters.step = step
        self.counters.samples += work.samples
        self.counters.tokens += work.forward.tokens
        self.throughput.add(work, waited)
        return _StepResult(float(loss), norm)

    def _loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        pixels = normalise(batch.pixels, batch.valid, self.config.image).to(self.dtype) if len(batch.pixels) else None
        loss: torch.Tensor = self.model(batch, pixels, compute_loss=True)
        return loss.sum()

    def _validation_loss(self) -> float:
        """Return the mean loss per answer token over the first validation samples."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            local = self._validation_batches() if self.loads_data else None
            for batch in share_batches(local, self.device):
                total[0] += self._loss_sum(batch)
                total[1] += (batch.labels != IGNORED_LABEL).sum()
        self.model.train()
        _sum_over_data_parallel(total)
        if total[1] == 0:
            raise StageError(f"The validation split of {self.spec.dataset_folder} has no answer tokens.")
        return float(total[0] / total[1])

    def _validation_batches(self) -> list[PackedBatch]:
        share = math.ceil(self.recipe.evaluation_samples / self.parallel.data_parallel)
        return self._pack(list(islice(self._validation_samples(), share)))

    def _validation_samples(self) -> ValidationSamples:
        return validation_samples(
            self.spec.dataset_folder,
            self._loader_settings(),
            tokenizer=self.tokenizer,
            image=self.config.image,
            data_parallel_rank=self.parallel.data_rank,
            data_parallel_size=self.parallel.data_parallel,
        )

    def _open_zero_shot(self) -> ZeroShot:
        return ZeroShot(
            self._validation_samples(),
            self.recipe.caption_samples,
            tokenizer=self.tokenizer,
            parallel=self.parallel,
            output=self.folder,
            title=self.spec.stage,
        )

    def _local_batches(self) -> Iterator[list[PackedBatch]]:
        """Yield the packed micro-batches of one step after the other, on ranks that load."""
        if self.loader is None:
            return
        for samples in self.loader:
            yield self._pack(samples)

    def _pack(self, samples: list[EncodedSample]) -> list[PackedBatch]:
        return pack(samples, self.recipe.sequence_length)

    def _open_loader(self) -> TrainingLoader:
        return TrainingLoader(
            self.spec.dataset_folder,
            self._loader_settings(),
            tokenizer=self.tokenizer,
            image=self.config.image,
            samples_per_batch=self.recipe.global_batch_size // self.parallel.data_parallel,
            data_parallel_rank=self.parallel.data_rank,
            data_parallel_size=self.parallel.data_parallel,
        )

    def _loader_settings(self) -> LoaderSettings:
        return LoaderSettings(
            prompt_format=self.recipe.prompt_format,
            sequence_length=self.recipe.sequence_length,
            shuffle_buffer=self.recipe.shuffle_buffer,
            workers=self.recipe.loader_workers,
            max_skip_share=self.recipe.max_skip_share,
            seed=self.recipe.seed,
        )

    def _restore(self) -> MasterWeightAdamW:
        """Load the starting weights, or everything of the newest training checkpoint."""
        kept = checkpoints(self.folder / TRAINING_FOLDER)
        if not kept:
            load_model(self.model, self.spec.model_folder / CHECKPOINT_FOLDER)
            return self._make_optimizer()
        optimizer = self._make_optimizer()
        self.counters, loader_states = load_checkpoint(kept[-1], self.model, optimizer, self.recipe.seed)
        if self.loader is not None:
            self.loader.restore(loader_states)
        if self.rank == 0:
            print(f"{self.spec.stage}: resumed at step {self.counters.step} from {kept[-1]}", flush=True)
            if self.loader is not None and len(loader_states) != self.parallel.data_parallel:
                print(
                    f"{self.spec.stage}: {self.parallel.data_parallel} data-parallel ranks go on where {len(loader_states)} "
                    f"stopped: the same global batches, from {self.loader.workers} loader processes per rank; other dropout",
                    flush=True,
                )
        return optimizer

    def _make_optimizer(self) -> MasterWeightAdamW:
        return MasterWeightAdamW(self.model, self.recipe, shard=self.spec.memory.shard_optimizer)

    def _save(self) -> None:
        loader_state = self.loader.state() if self.loader is not None else None
        folder = self.folder / TRAINING_FOLDER
        save_checkpoint(folder, self.counters, self.model, self.optimizer, loader_state, self.recipe.keep_checkpoints)

    def _finish(self) -> None:
        """Write the model folder; the resumable checkpoints have done their work and are removed by the stage."""
        save_model(self.model, self.folder / CHECKPOINT_FOLDER)
        counts = self._loader_counts()
        if self.rank != 0:
            return
        shutil.copytree(self.spec.model_folder / TOKENIZER_FOLDER, self.folder / TOKENIZER_FOLDER, dirs_exist_ok=True)
        shutil.copy(self.spec.model_folder / MODEL_FILE, self.folder / MODEL_FILE)
        rows = read_metrics(self.folder / METRICS_FILE)
        write_text(self.folder / CURVES_NAME, curves_svg(rows, self.spec.stage))
        write_json(self.folder / SKIPPED_NAME, counts.reasons)
        write_json(self.folder / SUMMARY_NAME, self._summary(rows, counts))
        self.tracker.log_artifact(self.folder / CURVES_NAME)
        self.tracker.flush()

    def _loader_counts(self) -> LoaderCounts:
        """Return what became of all samples, on every rank."""
        own = self.loader.counts if self.loader is not None else LoaderCounts()
        counts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(counts, own)
        total = LoaderCounts()
        for one in counts:
            total.add(one)
        return total

    def _summary(self, rows: list[dict[str, float]], counts: LoaderCounts) -> dict[str, Any]:
        summary: dict[str, Any] = {
            **{name: value for name, value in vars(self.counters).items()},
            "tensor_parallel": self.spec.tensor_parallel,
            "data_parallel": self.parallel.data_parallel,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "parameters_per_rank": count_parameters(self.model),
            "skipped_samples": counts.skipped,
            "truncated_samples": counts.truncated,
        }
        for key in ("loss", "validation_loss", "zero_shot_cider"):
            values = [row[key] for row in rows if key in row]
            if values:
                summary[f"final_{key}"] = values[-1]
        for key in RATES:
            values = sorted(row[key] for row in rows if key in row)
            if values:
                summary[f"median_{key}"] = values[len(values) // 2]
        for key in ("memory_allocated_gib", "memory_reserved_gib", "memory_resident_gib"):
            values = [row[key] for row in rows if key in row]
            if values:
                summary[f"peak_{key}"] = max(values)
        return summary

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

    def _attach(self) -> StageTracker:
        target = self.spec.tracking
        return attach(target.tracking_uri, target.stage_run_id, target.parent_run_id, target.prefix)

    def _request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def _agreed_to_stop(self) -> bool:
        """Return whether any rank was asked to stop, so that all stop after the same step."""
        flag = torch.tensor(int(self.stop_requested), device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)


def _trained_parts(recipe: Recipe) -> set[Part]:
    trains: dict[Part, bool] = {
        "language": recipe.train_language,
        "vision": recipe.train_vision,
        "projection": recipe.train_projector,
    }
    return {part for part, is_trained in trains.items() if is_trained}


def _sum_over_data_parallel(tensor: torch.Tensor) -> None:
    if parallel_state.get_data_parallel_world_size() > 1:
        torch.distributed.all_reduce(tensor, group=parallel_state.get_data_parallel_group())
