"""A process that loads and saves its state after every batch, until it is killed."""

import json
import os
import time
from pathlib import Path

from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.data.tokenizer import ChatTokenizer
from components.storage.atomic import write_bytes


def load(
    folder: Path, dataset: Path, settings: LoaderSettings, tokenizer: Path, image: ImageSettings, samples_per_batch: int
) -> None:
    """Write `<batches>.state` and append the batch's keys to `keys.jsonl`, batch after batch; print into `output.log`."""
    with open(folder / "output.log", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    loader = TrainingLoader(
        dataset,
        settings,
        tokenizer=ChatTokenizer.load(tokenizer),
        image=image,
        samples_per_batch=samples_per_batch,
    )
    with open(folder / "keys.jsonl", "a") as log:
        for number, samples in enumerate(loader, start=1):
            log.write(json.dumps([sample.key for sample in samples]) + "\n")
            log.flush()
            write_bytes(folder / f"{number:04d}.state", loader.state())
            time.sleep(0.02)
