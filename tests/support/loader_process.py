"""A process that loads and saves its state after every batch, until it is killed: `loader_process SPEC.json`."""

import json
import sys
import time
from pathlib import Path

from components.data.image_settings import ImageSettings
from components.data.loader import LoaderSettings, TrainingLoader
from components.data.tokenizer import ChatTokenizer
from components.storage.atomic import write_bytes


def main() -> None:
    """Write `<batches>.state` and append the batch's keys to `keys.jsonl`, batch after batch."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(spec["folder"])
    loader = TrainingLoader(
        Path(spec["dataset"]),
        LoaderSettings.model_validate(spec["settings"]),
        tokenizer=ChatTokenizer.load(Path(spec["tokenizer"])),
        image=ImageSettings.model_validate(spec["image"]),
        samples_per_batch=spec["samples_per_batch"],
    )
    with open(folder / "keys.jsonl", "a") as log:
        for number, samples in enumerate(loader, start=1):
            log.write(json.dumps([sample.key for sample in samples]) + "\n")
            log.flush()
            write_bytes(folder / f"{number:04d}.state", loader.state())
            time.sleep(0.02)


if __name__ == "__main__":
    main()
