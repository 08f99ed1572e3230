"""What each process of `tests.unit.model.test_projector` does."""

import os
from pathlib import Path

import torch

from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import ModelConfig
from components.model.distributed import destroy, initialize
from components.model.vlm import build_model
from components.training.config import Recipe
from components.training.optimizer import MasterWeightAdamW
from tests.support.small_training import RECIPE


def project(results: Path) -> None:
    """Project features with every projector of `jobs.pt`; write outputs, gradients and their norm."""
    parallel = initialize(int(os.environ["WORLD_SIZE"]), device="cpu")
    measured = []
    for number, job in enumerate(torch.load(results / "jobs.pt", weights_only=True)):
        projector = build_model(ModelConfig.model_validate_json(job["config"])).vision_projection
        load_model(projector, Path(job["checkpoint"]))
        features = job["features"].requires_grad_()
        output = projector(features)
        (output * job["direction"]).sum().backward()
        optimizer = MasterWeightAdamW(projector, Recipe(**RECIPE))
        gradients = optimizer._take_gradients()
        norm = optimizer._global_norm(gradients)
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            parameter.data.copy_(gradient)
        save_model(projector, results / f"gradients-{number}")
        measured.append({"output": output.detach(), "features": features.grad, "norm": norm})
    if parallel.rank == 0:
        torch.save(measured, results / "measured.pt")
    destroy()
