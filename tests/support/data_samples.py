"""Small raw datasets and tokenizers for the tests of the data rooms."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from components.context import RunContext
from components.data.tokenizer import ChatTokenizer
from components.energon_split.config import EnergonSplitConfig
from components.energon_split.stage import run_energon_split
from components.wds_conversion.config import WdsConversionConfig
from components.wds_conversion.stage import run_wds_conversion
from tests.support.chats import prepared
from tests.support.finished import finish

WORDS = "a red circle number above the large blue square on grey ground Describe the picture What colour is it ?"
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>"]


def make_tokenizer(folder: Path) -> ChatTokenizer:
    """Train a small byte-level tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    published = folder / "published"
    published.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(published / "tokenizer.json"))
    return prepared(published, folder)


def picture(number: int, kind: str = "JPEG", size: tuple[int, int] = (40, 32)) -> bytes:
    """Draw a picture that differs with its number."""
    rng = random.Random(number)
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    ImageDraw.Draw(image).ellipse((4, 4, rng.randrange(8, size[0]), rng.randrange(8, size[1])), fill="red")
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def caption_entry(number: int) -> dict[str, Any]:
    """One LLaVA-Pretrain entry."""
    return {
        "id": f"{number:08d}",
        "image": f"train/{number:08d}.jpg",
        "conversations": [
            {"from": "human", "value": "Describe the picture.\n<image>"},
            {"from": "gpt", "value": f"a red circle number {number} on grey ground"},
        ],
    }


def dialogue_entry(number: int, with_picture: bool = True) -> dict[str, Any]:
    """One LLaVA-Instruct entry of two turns."""
    marker = "<image>\n" if with_picture else ""
    entry = {
        "id": f"d{number}",
        "conversations": [
            {"from": "human", "value": f"{marker}What colour is it?"},
            {"from": "gpt", "value": f"red {number}"},
            {"from": "human", "value": "What is above?"},
            {"from": "gpt", "value": "a square"},
        ],
    }
    return {**entry, "image": f"train/{number:08d}.jpg"} if with_picture else entry


def make_raw(
    folder: Path,
    entries: list[Any],
    pictures: dict[str, bytes],
    *,
    annotations: str = "pretrain.json",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a finished raw dataset folder with images.zip."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images.zip", "w", compression) as archive:
        for name, content in pictures.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    (folder / annotations).write_text(json.dumps(entries), encoding="utf-8")
    return finish_raw(folder)


def finish_raw(folder: Path) -> Path:
    """Write the manifest of a raw dataset folder as the download stage does."""
    return finish(folder, "download_dataset", folder.name)


def make_captions(folder: Path, count: int) -> Path:
    """Write a raw dataset of `count` captioned pictures."""
    entries = [caption_entry(number) for number in range(count)]
    return make_raw(folder, entries, {entry["image"]: picture(number) for number, entry in enumerate(entries)})


def make_dataset(root: Path, raw: Path, check_images: bool = True) -> Path:
    """Convert and split a raw dataset; return the folder that the loader reads."""
    context = RunContext(run_id="t", run_name="t", workspace=root / "workspace")
    config = WdsConversionConfig(annotations="pretrain.json", prefix="pretrain", check_images=check_images)
    shards = run_wds_conversion(context, config, raw)
    return run_energon_split(context, EnergonSplitConfig(name="pretrain"), shards.folder).folder
