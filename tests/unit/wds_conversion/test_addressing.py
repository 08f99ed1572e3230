"""What of a dataset decides about shards: mending evaluation data repeats neither conversion nor training."""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset, run_download_weights
from components.download.task_data import evaluation_data
from components.download.weights_config import WeightsConfig
from components.energon_split.config import EnergonSplitConfig
from components.energon_split.stage import run_energon_split
from components.tasks.loading import load_task
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from tests.support import data_samples

COUNT, HELD_OUT = 60, 10


class Keys(NamedTuple):
    """What the keys of later stages are made of."""

    raw: str
    shards: str
    split: str
    weights: str
    captioning: str
    questions: str


def _keys(workspace: Path, *, letter: str = "A", picture: int = 3, caption: str = "a dog", training: str = "") -> Keys:
    source = workspace / "data"
    source.mkdir(exist_ok=True)
    entries: list[Any] = [data_samples.caption_entry(number) for number in range(COUNT)]
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for number, entry in enumerate(entries):
            shown = picture if number == 3 else number
            archive.writestr(zipfile.ZipInfo(entry["image"]), data_samples.picture(shown))
    if training:
        entries[HELD_OUT]["conversations"][1]["value"] = training
    (source / "captions.json").write_text(json.dumps(entries[HELD_OUT:]))
    names = [entry["image"] for entry in entries[:HELD_OUT]]
    truth = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "caption": caption} for n in range(HELD_OUT)],
    }
    (source / "captioning.json").write_text(json.dumps(truth))
    questions = [
        {"id": f"q{n}", "image": name, "question": "what?", "options": ["red", "blue"], "answer": letter}
        for n, name in enumerate(names)
    ]
    (source / "multiple_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    context = RunContext(run_id="t", run_name="t", workspace=workspace)
    raw = run_download_dataset(context, DatasetConfig(source=source.as_uri())).folder
    conversion = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain", samples_per_shard=5)
    shards = run_wds_conversion(context, conversion, raw)
    return Keys(
        raw.name,
        shards.folder.name,
        run_energon_split(context, EnergonSplitConfig(name="pretrain"), shards.folder).folder.name,
        run_download_weights(context, WeightsConfig(vocabulary=300), raw).folder.name,
        *(evaluation_data(raw, load_task(task)).content for task in ("captioning", "multiple_choice")),
    )


def test_each_stage_is_found_by_what_it_reads(tmp_path: Path) -> None:
    first = _keys(tmp_path)
    letter = _keys(tmp_path, letter="B")
    assert letter.raw != first.raw
    assert letter == first._replace(raw=letter.raw, questions=letter.questions)
    assert letter.questions != first.questions
    caption = _keys(tmp_path, caption="a cat")
    assert caption == first._replace(raw=caption.raw, captioning=caption.captioning)
    picture = _keys(tmp_path, picture=900)
    # The zip is another one, so that the pictures are looked at again; the shards come out as they were.
    assert (picture.split, picture.weights) == (first.split, first.weights)
    assert picture.shards != first.shards
    training = _keys(tmp_path, training="another caption")
    assert not {training.shards, training.split, training.weights} & set(first)
