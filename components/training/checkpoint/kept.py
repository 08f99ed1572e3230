"""Checkpoints that stay after the training, as model folders that every later stage takes."""

import shutil
from pathlib import Path

import torch

from components.model.checkpoint.sharded import save_model
from components.model.config import CHECKPOINT_FOLDER, MODEL_FILE, TOKENIZER_FOLDER
from components.model.distributed import on_first_rank
from components.model.vlm import VisionLanguageModel
from components.training.checkpoint.contents import read_facts
from components.training.checkpoint.layout import checkpoint_folder, checkpoints, kept_folder
from components.training.checkpoint.resume import load_trained
from components.training.checkpoint.retention import Mark, Retention


def write_kept_models(
    output: Path, training: Path, source: Path, model: VisionLanguageModel, retention: Retention, final: Mark
) -> list[Mark]:
    """Write the checkpoints that stay for good as model folders `kept/step_*`; every rank calls this.

    Args:
        output: The stage's folder.
        training: Its folder of training checkpoints.
        source: The model folder that training started from: its architecture and tokenizer go along.
        model: The model, with the frozen parts; what trains has the values of the last kept checkpoint afterwards.
        retention: Which stay.
        final: The finished model, which is no training checkpoint but may be the best.

    Returns:
        The models that there are in the end, the final one included, by step.
    """
    found = on_first_rank(lambda: [read_facts(path).mark for path in checkpoints(training)])
    # A run that was stopped after its last step has a training checkpoint of it as well.
    earlier = [mark for mark in found if mark.step != final.step]
    stay = [mark for mark in retention.for_good([*earlier, final]) if mark != final]
    for mark in stay:
        folder = kept_folder(output, mark.step)
        load_trained(checkpoint_folder(training, mark.step), model)
        save_model(model, folder / CHECKPOINT_FOLDER)
        if torch.distributed.get_rank() == 0:
            copy_description(source, folder)
    return [*stay, final]


def copy_description(source: Path, folder: Path) -> None:
    """Copy architecture and tokenizer of a model folder beside another checkpoint."""
    shutil.copytree(source / TOKENIZER_FOLDER, folder / TOKENIZER_FOLDER, dirs_exist_ok=True)
    shutil.copy(source / MODEL_FILE, folder / MODEL_FILE)
