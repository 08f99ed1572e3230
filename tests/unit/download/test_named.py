"""Datasets whose parts come from places of their own, and weights from a hub: from real servers to finished folders."""

import hashlib
import io
import json
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from components.context import RunContext
from components.download.config import DatasetConfig
from components.download.stage import run_download_dataset, run_download_weights
from components.download.weights_config import WeightsConfig
from components.errors import ConfigurationError, InputError, StageError
from components.stage.runner import StageOutput
from components.tasks.loading import load_samples, load_task
from pipelines.preset_files import load_preset
from tests.support.hub_server import publish
from tests.support.web_server import WebServer, web_server

TRANSFER = {"connections": 2, "attempts": 2, "first_wait_s": 0.01, "timeout_s": 5.0}
KARPATHY = (391895, 522418, 184613)


def picture(number: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number % 256)).save(buffer, kind)
    return buffer.getvalue()


def zipped(pictures: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time of day: the same bytes every time
    return buffer.getvalue()


def talk(identifier: str, image: str | None, *turns: str) -> dict[str, Any]:
    mark = "<image>\n" if image else ""
    texts = turns or ("Describe it.", f"caption of {image}")
    sides = [
        {"from": ("human", "gpt")[row % 2], "value": (mark if row == 0 else "") + text}
        for row, text in enumerate(texts)
    ]
    return {"id": identifier, **({"image": image} if image else {}), "conversations": sides}


PRETRAIN = [talk(str(number), f"{number % 3:05d}/{number:09d}.jpg") for number in range(30)]
ROOTS = {  # prefix in the annotations -> (folder in its zip, names)
    "coco/train2017/": ("train2017/", ["000000000009.jpg"]),
    "gqa/images/": ("images/", ["2354786.jpg"]),
    "ocr_vqa/images/": ("some/where/else/", ["1437717772.jpg"]),
    "textvqa/train_images/": ("train_images/", ["0054c91397f2fe05.jpg", "003a8ae2ef43b901.jpg"]),
    "vg/VG_100K/": ("VG_100K/", ["2.jpg"]),
    "vg/VG_100K_2/": ("VG_100K_2/", ["2.jpg"]),
}
SFT = [
    *(
        talk(f"s{row}", prefix + names[0], "What?", "This.", "And?", "That.")
        for row, (prefix, (_, names)) in enumerate(ROOTS.items())
    ),
    talk("t", None, "2 + 2?", "4"),
]


def mmmu_file(subject: str, rows: list[dict[str, Any]]) -> bytes:
    table = [
        {
            "id": f"validation_{subject}_{number}",
            "question": "What is <image 1>?",
            "options": "['one', 'two', 'three']",
            "answer": "B",
            "question_type": "multiple-choice",
            **{f"image_{place}": None for place in range(1, 8)},
            "image_1": {"bytes": picture(number, "PNG"), "path": "a.png"},
            **changes,
        }
        for number, changes in enumerate(rows, start=1)
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), buffer)
    return buffer.getvalue()


OPEN = {"question_type": "open", "options": "[]", "answer": "['4', 'four']"}
SECOND = {
    "image_2": {"bytes": picture(99, "PNG"), "path": "b.png"},
    "options": "['one', 'two <image 2>', 'three']",
}
TEXTVQA = {
    "data": [
        {
            "question_id": 34602,
            "image_id": "003a8ae2ef43b901",
            "question": "what is the brand?",
            "answers": ["nokia"] * 9 + ["toshiba"],
        }
    ]
}
VQAV2 = {
    "questions": {
        "questions": [
            {"question_id": 1000 + row, "image_id": number, "question": "How many?"}
            for row, number in enumerate(KARPATHY)
        ]
    },
    "annotations": {
        "annotations": [
            {
                "question_id": 1000 + row,
                "image_id": number,
                "answer_type": "number",
                "answers": [{"answer_id": place, "answer": str(place % 2)} for place in range(1, 11)],
            }
            for row, number in reversed(list(enumerate(KARPATHY)))
        ]
    },
}
MMMU = {
    "Art/validation-00000-of-00001.parquet": mmmu_file("Art", [{}, SECOND]),
    "Math/validation-00000-of-00001.parquet": mmmu_file("Math", [{}, OPEN]),
    "Math/test-00000-of-00001.parquet": b"must not be fetched",
    "README.md": b"must not be fetched",
}


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def world(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    build_world(web, monkeypatch)


@pytest.fixture(scope="module")
def reference(web: WebServer, tmp_path_factory: pytest.TempPathFactory) -> StageOutput:
    """The reference preset's dataset, fetched once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        build_world(web, monkeypatch)
        return run(tmp_path_factory.mktemp("reference"), preset())


def build_world(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve a hub and web servers with everything that the reference preset names, made small."""
    web.files.clear()
    web.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HTTP_PROXY", web.url)  # every host of the preset is this server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    archive = zipped({entry["image"]: picture(int(entry["id"])) for entry in PRETRAIN})
    publish(
        web,
        "liuhaotian/LLaVA-Pretrain",
        {"blip_laion_cc_sbu_558k.json": json.dumps(PRETRAIN).encode(), "images.zip": archive, "README.md": b"no"},
        kind="dataset",
    )
    publish(
        web, "liuhaotian/LLaVA-Instruct-150K", {"llava_v1_5_mix665k.json": json.dumps(SFT).encode()}, kind="dataset"
    )
    publish(web, "MMMU/MMMU", MMMU, kind="dataset")
    zips = {
        prefix: zipped({folder + name: picture(row) for name in names})
        for row, (prefix, (folder, names)) in enumerate(ROOTS.items())
    }
    publish(
        web,
        "weizhiwang/llava_v15_instruction_images",
        {"ocr_vqa_images_llava_v15.zip": zips["ocr_vqa/images/"]},
        kind="dataset",
    )
    truth = {
        "annotations": [
            {"image_id": number, "caption": f"caption {row} of {number}", "id": 10 * place + row}
            for place, number in enumerate(KARPATHY)
            for row in range(5)
        ],
        "images": [{"id": number} for number in KARPATHY],
    }
    val2014 = zipped({f"val2014/COCO_val2014_{number:012d}.jpg": picture(number) for number in (*KARPATHY, 1, 2)})
    for host, path, content in (
        ("images.cocodataset.org", "/zips/train2017.zip", zips["coco/train2017/"]),
        ("downloads.cs.stanford.edu", "/nlp/data/gqa/images.zip", zips["gqa/images/"]),
        ("dl.fbaipublicfiles.com", "/textvqa/images/train_val_images.zip", zips["textvqa/train_images/"]),
        ("cs.stanford.edu", "/people/rak248/VG_100K_2/images.zip", zips["vg/VG_100K/"]),
        ("cs.stanford.edu", "/people/rak248/VG_100K_2/images2.zip", zips["vg/VG_100K_2/"]),
        (
            "storage.googleapis.com",
            "/sfr-vision-language-research/datasets/coco_karpathy_test_gt.json",
            json.dumps(truth).encode(),
        ),
        ("images.cocodataset.org", "/zips/val2014.zip", val2014),
        ("dl.fbaipublicfiles.com", "/textvqa/data/TextVQA_0.5.1_val.json", json.dumps(TEXTVQA).encode()),
    ):
        web.serve(f"http://{host}{path}", content)


def run(workspace: Path, config: DatasetConfig) -> StageOutput:
    return run_download_dataset(RunContext(run_id="t", run_name="t", workspace=workspace), config)


def preset(**changes: Any) -> DatasetConfig:
    """The reference preset's data, over plain HTTP: the tests' proxy speaks nothing else."""
    tree = load_preset("mistral-clip-7b").data.model_dump(mode="json", exclude_none=True)
    plain = json.loads(json.dumps(tree).replace("https://", "http://"))
    return DatasetConfig.model_validate(plain | {"transfer": TRANSFER} | changes)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored(folder: Path, name: str) -> bytes:
    """Read a picture by the contract of `image_roots`."""
    roots = load(folder / "dataset.json")["image_roots"]
    root = max((root for root in roots if name.startswith(root["prefix"])), key=lambda root: len(root["prefix"]))
    with zipfile.ZipFile(folder / root["source"]) as archive:
        return archive.read(root["inside"] + name[len(root["prefix"]) :])


def test_reference_preset(reference: StageOutput) -> None:
    output, folder = reference, reference.folder
    assert load(folder / "pretrain.json")[7]["image"] == PRETRAIN[7]["image"]
    assert len(load(folder / "pretrain.json")) == 30, "nothing is held out: the evaluation has pictures of its own"
    assert [entry.get("image") for entry in load(folder / "sft.json")] == [entry.get("image") for entry in SFT]
    assert load(folder / "sft.json")[0]["conversations"] == SFT[0]["conversations"]
    truth = load(folder / "captioning.json")
    assert [item["file_name"] for item in truth["images"]] == [
        f"coco/val2014/COCO_val2014_{number:012d}.jpg" for number in KARPATHY
    ]
    assert len(truth["annotations"]) == 15
    for number in KARPATHY:
        assert stored(folder, f"coco/val2014/COCO_val2014_{number:012d}.jpg") == picture(number)
    assert stored(folder, PRETRAIN[5]["image"]) == picture(5)
    for row, (prefix, (_, names)) in enumerate(ROOTS.items()):
        assert stored(folder, prefix + names[0]) == picture(row), prefix
    assert output.manifest.facts["rejected_entries"] == 0
    sources = load(folder / "dataset.json")["sources"]
    assert sources["data.pretrain.annotations"] == "hf://datasets/liuhaotian/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    fetched = {
        name for manifest in folder.parents[1].glob("source/*/manifest.json") for name in load(manifest)["files"]
    }
    assert {name for name in fetched if "parquet" in name} == {name for name in MMMU if "validation" in name}
    assert "README.md" not in fetched


def test_mmmu(reference: StageOutput) -> None:
    folder = reference.folder
    rows = lines(folder / "mmmu.jsonl")
    assert [(row["id"], row["category"]) for row in rows] == [
        ("validation_Art_1", "Art"),
        ("validation_Art_2", "Art"),
        ("validation_Math_1", "Math"),
        ("validation_Math_2", "Math"),
    ]
    assert (rows[0]["question"], rows[0]["options"]) == ("What is <image 1>?", ["one", "two", "three"])
    assert (rows[1]["options"], rows[1]["answer"]) == (["one", "two <image 2>", "three"], "B")
    assert stored(folder, rows[0]["image"]) == picture(1, "PNG")
    assert [stored(folder, name) for name in rows[1]["images"]] == [picture(2, "PNG"), picture(99, "PNG")]
    assert (rows[3]["answers"], "options" in rows[3]) == (["4", "four"], False)
    assert len(load_samples(folder, load_task("mmmu"))) == 4


def test_textvqa(reference: StageOutput) -> None:
    (row,) = lines(reference.folder / "textvqa.jsonl")
    assert (row["id"], row["image"]) == ("34602", "textvqa/train_images/003a8ae2ef43b901.jpg")
    assert stored(reference.folder, row["image"]) == picture(3)
    (sample,) = load_samples(reference.folder, load_task("textvqa"))
    assert (sample.question, sample.references.count("nokia")) == ("What is the brand?", 9)


@pytest.fixture
def vqav2(web: WebServer) -> dict[str, Any]:
    """VQAv2 as it is published: both files in zips, pictures by their number."""
    for name, content in VQAV2.items():
        web.serve(f"http://vqa.example/{name}.zip", zipped({f"v2_{name}.json": json.dumps(content).encode()}))
    captioning = preset().evaluation.captioning
    assert captioning is not None
    return {
        "questions": "http://vqa.example/questions.zip",
        "annotations": "http://vqa.example/annotations.zip",
        "images": captioning.model_dump(mode="json", exclude_none=True)["images"],
    }


def test_vqav2(vqav2: dict[str, Any], tmp_path: Path) -> None:
    folder = run(tmp_path, preset(evaluation={"vqav2": vqav2}, folder={"held_out_pictures": 6})).folder
    samples = load_samples(folder, load_task("vqav2"))
    assert [(sample.id, sample.category) for sample in samples] == [(str(1000 + row), "number") for row in range(3)]
    assert samples[0].references == ("1", "0") * 5
    for sample, number in zip(samples, KARPATHY, strict=True):
        assert sample.image == f"coco/val2014/COCO_val2014_{number:012d}.jpg"
        assert stored(folder, sample.image) == picture(number)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "annotations",
            {"annotations": VQAV2["annotations"]["annotations"][:2]},
            "no answers to 1 of 3 questions, 1000",
        ),
        ("annotations", [], "must be a JSON object with a list `annotations`"),
        ("questions", {"questions": [{"question_id": 1000}]}, "not in VQAv2's layout"),
        (
            "questions",
            {"questions": [{"question_id": 1000, "image_id": 77, "question": "?"}]},
            "1 of 1 pictures are not",
        ),
    ],
)
def test_broken_vqav2(
    vqav2: dict[str, Any], web: WebServer, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    web.serve(f"http://vqa.example/{name}.zip", zipped({"a.json": json.dumps(content).encode()}), etag='"broken"')
    with pytest.raises(InputError, match=message):
        run(tmp_path, preset(evaluation={"vqav2": vqav2}, folder={"held_out_pictures": 6}))


def test_questions_of_your_own(tmp_path: Path) -> None:
    """From their own source under a name, and from there again with the folder that the download left."""
    (tmp_path / "a.zip").write_bytes(zipped({entry["image"]: picture(int(entry["id"])) for entry in PRETRAIN}))
    rows = [{"id": "1", "image": PRETRAIN[3]["image"], "question": "How many?", "answers": ["3"], "mine": [1]}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"counting": {"annotations": (tmp_path / "questions.jsonl").as_uri()}}
    config = small(tmp_path, [{"uri": (tmp_path / "a.zip").as_uri()}], evaluation={"more": more})
    first = run(tmp_path, config).folder
    again = run(tmp_path / "b", DatasetConfig(source=first.as_uri())).folder
    for folder in (first, again):
        assert lines(folder / "counting.jsonl") == rows
        assert rows[0]["image"] not in {entry["image"] for entry in load(folder / "pretrain.json")}
    with pytest.raises(ValueError, match="another file of the dataset"):
        small(tmp_path, [], evaluation={"more": {"mmmu": more["counting"]}})


def test_fetched_archives_are_linked_and_fetched_once(reference: StageOutput, web: WebServer) -> None:
    first, tmp_path = reference, reference.folder.parents[2]
    inodes = {path.stat().st_ino for path in (tmp_path / "download" / "source").glob("*/*.zip")}
    archives = [path for path in first.folder.rglob("*.zip") if path.name != "mmmu.zip"]
    assert len(archives) == 8
    assert {path.stat().st_ino for path in archives} == inodes
    web.requests.clear()
    second = run(tmp_path, preset(seed=1))
    assert second.manifest.key != first.manifest.key
    assert web.sent < 50_000, "only listings"
    assert run(tmp_path, preset(transfer=TRANSFER | {"connections": 1})).reused


def test_lock_of_a_download_checks_a_copy(reference: StageOutput, web: WebServer, tmp_path: Path) -> None:
    first = reference
    lock = first.folder / "sources.lock.json"
    copies = {}
    for setting, source in load(lock)["sources"].items():
        assert all(hashlib.sha256().digest_size * 2 == len(entry["sha256"]) for entry in source["files"].values())
        copies[setting] = source["uri"]
    assert set(copies) == set(first.manifest.inputs)
    again = run(tmp_path / "b", preset(lock=lock.as_uri()))
    assert (again.folder / "captioning.json").read_bytes() == (first.folder / "captioning.json").read_bytes()
    url = "http://images.cocodataset.org/zips/val2014.zip"
    content = bytearray(web.files[url].content)
    content[60] ^= 1
    web.serve(url, bytes(content), etag='"other"')
    with pytest.raises(InputError, match=r"val2014\.zip has SHA-256"):
        run(tmp_path / "c", preset(lock=lock.as_uri()))
    web.serve(url, bytes(content[:-1]), etag='"shorter"')
    with pytest.raises(
        InputError, match=r"val2014\.zip .*data\.evaluation\.captioning\.images\[0\].* its lock file says"
    ):
        run(tmp_path / "d", preset(lock=lock.as_uri()))


def test_raw_folder_of_a_download_is_a_source(reference: StageOutput, tmp_path: Path) -> None:
    first = reference.folder
    again = run(tmp_path / "b", DatasetConfig(source=first.as_uri())).folder
    for name in (
        "pretrain.json",
        "sft.json",
        "captioning.json",
        "multiple_choice.jsonl",
        "mmmu.jsonl",
        "textvqa.jsonl",
    ):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    for entry in load(again / "sft.json")[:-1]:
        assert stored(again, entry["image"]) == stored(first, entry["image"])


def test_full_disk_is_told_before_the_first_source(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))  # each alone would fit
    with pytest.raises(StageError, match="the sources have"):
        run(tmp_path, preset())
    assert not list(tmp_path.rglob("*.zip"))


def small(tmp_path: Path, images: list[dict[str, Any]], entries: list[Any] | None = None, **more: Any) -> DatasetConfig:
    (tmp_path / "captions.json").write_text(json.dumps(entries or PRETRAIN))
    annotations = (tmp_path / "captions.json").as_uri()
    tree = {
        "source": "named://",
        "pretrain": {"annotations": annotations, "images": images},
        "folder": {"held_out_pictures": 6},
    }
    return DatasetConfig.model_validate(tree | more)


def test_pictures_of_a_local_folder_with_held_out_ones(tmp_path: Path) -> None:
    for entry in PRETRAIN:
        path = tmp_path / "pictures" / entry["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(int(entry["id"])))
    folder = run(tmp_path, small(tmp_path, [{"uri": (tmp_path / "pictures").as_uri()}])).folder
    held_out = {item["file_name"] for item in load(folder / "captioning.json")["images"]}
    assert len(held_out) == 6
    assert not held_out & {entry["image"] for entry in load(folder / "pretrain.json")}
    assert all(stored(folder, entry["image"]) == picture(int(entry["id"])) for entry in PRETRAIN)
    assert len(lines(folder / "multiple_choice.jsonl")) == 6


def test_two_places_that_fit(tmp_path: Path) -> None:
    names = [entry["image"] for entry in PRETRAIN]
    (tmp_path / "a.zip").write_bytes(zipped({f"{top}/{name}": b"" for top in ("large", "small") for name in names}))
    source = {"uri": (tmp_path / "a.zip").as_uri()}
    with pytest.raises(InputError, match=r"in 'large/' and in 'small/': say in `inside`"):
        run(tmp_path, small(tmp_path, [source]))
    with pytest.raises(InputError, match="can't be used|can be decoded"):
        run(tmp_path, small(tmp_path, [source | {"inside": "nowhere/"}]))


def test_one_prefix_with_two_sources(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(zipped({entry["image"]: picture(int(entry["id"])) for entry in PRETRAIN}))
    images = [{"uri": (tmp_path / name).as_uri()} for name in ("a.zip", "b.zip")]
    with pytest.raises(ConfigurationError, match=r"data\.pretrain\.images\[1\].*the prefix '' come from another"):
        run(tmp_path, small(tmp_path, images))


@pytest.mark.parametrize("name", ["pictures.tar", "pictures.txt"])
def test_pictures_of_another_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"{name}.*name one zip, or a folder of pictures"):
        run(tmp_path, small(tmp_path, [{"uri": (tmp_path / name).as_uri()}]))


def test_captions_without_their_pictures(web: WebServer, tmp_path: Path) -> None:
    web.serve(
        "http://images.cocodataset.org/zips/val2014.zip",
        zipped({"val2014/COCO_val2014_000000000001.jpg": b""}),
        etag='"2"',
    )
    with pytest.raises(InputError, match=r"3 of 3 pictures are not in its `images` \(no name there ends with 391895\)"):
        run(tmp_path, preset())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": "E"}], "validation_Art_1.*the answer is 'E' of 3 options"),
        ([{"options": "['a'"}], "validation_Art_1"),
        ([{"image_1": None}], "validation_Art_1"),
        ([{"options": "['one', '<image 2>', 'three']"}], "mark <image 2>, but the pictures are 1"),
    ],
)
def test_broken_mmmu(rows: list[dict[str, Any]], message: str, web: WebServer, tmp_path: Path) -> None:
    publish(web, "MMMU/MMMU", {"Art/validation-0.parquet": mmmu_file("Art", rows)}, kind="dataset")
    with pytest.raises(InputError, match=message):
        run(tmp_path, preset())


def test_secrets_stay_out_of_everything(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped({entry["image"]: picture(int(entry["id"])) for entry in PRETRAIN})
    url = web.serve("/private/images.zip", archive, users="me:s3cret")
    monkeypatch.setenv("IMAGES_URL", f"{url.replace('http://', 'http://me:s3cret@')}?X-Amz-Signature=s1gned")
    run(tmp_path, small(tmp_path, [{"uri": "${IMAGES_URL}"}]))
    for path in tmp_path.rglob("*"):
        assert not any(secret in str(path) for secret in ("s3cret", "s1gned"))
        if path.is_file():
            content = path.read_bytes()
            assert b"s3cret" not in content, path
            assert b"s1gned" not in content, path


# Weights.

MISTRAL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"spm",
    "model-00001-of-00002.safetensors": b"1" * 2000,
    "model-00002-of-00002.safetensors": b"2" * 2000,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "consolidated.safetensors": b"not needed",
    "params.json": b"not needed",
    "original/consolidated.pth": b"not needed",
}
CLIP = {
    "config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "pytorch_model.bin": b"3" * 3000,
    "tf_model.h5": b"not needed",
    "flax_model.msgpack": b"not needed",
}


def fetch_weights(workspace: Path, **changes: Any) -> StageOutput:
    weights = load_preset("mistral-clip-7b").weights.model_dump(mode="json")
    config = WeightsConfig.model_validate(weights | {"transfer": TRANSFER} | changes)
    return run_download_weights(RunContext(run_id="t", run_name="t", workspace=workspace), config)


def names(output: StageOutput) -> set[str]:
    return {path.relative_to(output.folder).as_posix() for path in output.folder.rglob("*") if path.is_file()}


def test_weights_of_the_reference_preset(web: WebServer, tmp_path: Path) -> None:
    publish(web, "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL)
    publish(web, "openai/clip-vit-large-patch14-336", CLIP)
    output = fetch_weights(tmp_path)
    needed = {f"language/{name}" for name, content in MISTRAL.items() if content != b"not needed"}
    needed |= {"vision/config.json", "vision/preprocessor_config.json", "vision/pytorch_model.bin"}
    assert names(output) == needed | {"manifest.json", "sources.lock.json"}
    assert not [request for request in web.requests if "consolidated" in request.path or "tf_model" in request.path]
    assert output.manifest.facts["language"]["source"] == "hf://mistralai/Mistral-7B-Instruct-v0.3"
    assert (output.folder / "vision" / "pytorch_model.bin").read_bytes() == CLIP["pytorch_model.bin"]


def test_safetensors_are_preferred(web: WebServer, tmp_path: Path) -> None:
    publish(web, "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL)
    publish(web, "openai/clip-vit-large-patch14-336", CLIP | {"model.safetensors": b"st"})
    found = names(fetch_weights(tmp_path))
    assert "vision/model.safetensors" in found
    assert "vision/pytorch_model.bin" not in found


def test_folder_of_a_web_server_with_the_lock_of_a_download(web: WebServer, tmp_path: Path) -> None:
    publish(web, "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL)
    publish(web, "openai/clip-vit-large-patch14-336", CLIP)
    first = fetch_weights(tmp_path / "a")
    for path in first.folder.glob("*/*"):
        web.serve(f"/mirror/{path.relative_to(first.folder).as_posix()}", path.read_bytes())
    mirror = {f"{part}_source": f"{web.url}/mirror/{part}/" for part in ("language", "vision")}
    web.requests.clear()
    again = fetch_weights(tmp_path / "b", **mirror, lock=(first.folder / "sources.lock.json").as_uri())
    assert names(again) == names(first)
    assert all(request.path.startswith("/mirror/") for request in web.requests)
    with pytest.raises(InputError, match="can't be asked what is in it"):
        fetch_weights(tmp_path / "c", **mirror)


@pytest.mark.parametrize("kind", ["http", "file"])
def test_single_file_of_openai(kind: str, web: WebServer, tmp_path: Path) -> None:
    publish(web, "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL)
    (tmp_path / "ViT-L-14-336px.pt").write_bytes(b"torchscript")
    url = web.serve("/clip/ViT-L-14-336px.pt", b"torchscript")
    source = url if kind == "http" else (tmp_path / "ViT-L-14-336px.pt").as_uri()
    output = fetch_weights(tmp_path, vision_source=source)
    assert {name for name in names(output) if name.startswith("vision/")} == {"vision/ViT-L-14-336px.pt"}
    assert (output.folder / "vision" / "ViT-L-14-336px.pt").read_bytes() == b"torchscript"


def test_language_model_is_no_single_file(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        fetch_weights(tmp_path, language_source=web.serve("/m.pt", b""))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}"}, r"tokenizer\.json is missing"),
        ({"config.json": b"{}", "tokenizer.json": b"{}", "weights.bin": b""}, r"has no model\*\.safetensors"),
        ({name: content for name, content in MISTRAL.items() if "00002-of" not in name}, "lacks model-00002-of-00002"),
    ],
)
def test_incomplete_repositories(files: dict[str, bytes], message: str, web: WebServer, tmp_path: Path) -> None:
    publish(web, "mistralai/Mistral-7B-Instruct-v0.3", files)
    publish(web, "openai/clip-vit-large-patch14-336", CLIP)
    with pytest.raises(InputError, match=message):
        fetch_weights(tmp_path)
