"""What each process of a tensor-parallel model of two measures.

Every rank writes `rank<number>.pt`; together they save the model to `saved`.
"""

from pathlib import Path

import torch

from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import read_model_config
from components.model.distributed import destroy, initialize, numbers_of_this_rank, seed_everything
from components.model.vlm import build_model
from tests.support.model_samples import measure


def measure_rank(model_folder: Path, results: Path) -> None:
    """Load, measure, save."""
    parallel = initialize(2, device="cpu")
    config = read_model_config(model_folder)
    model, dropout_model = build_model(config), build_model(config, hidden_dropout=0.2)
    for built in (model, dropout_model):
        load_model(built, model_folder / "checkpoint")
    measured = measure(model, dropout_model)
    seed_everything(5)
    with numbers_of_this_rank(parallel.device):
        measured["numbers_of_this_rank"] = torch.rand(4)
    measured["numbers_of_all_ranks"] = torch.rand(4)
    save_model(model, results / "saved")
    torch.save(measured, results / f"rank{parallel.rank}.pt")
    destroy()
