"""Real pictures of the wild kind: the clip-art and photographs of Debian's tuxpaint-stamps-default, with their captions."""

import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from components.context import RunContext
from components.evaluate.scores import read_scores
from components.evaluate.stage import run_evaluate
from components.generate.stage import run_generate
from components.training.stage import run_training
from pipelines.preset_files import load_preset
from tests.support.small_chain import prepare

PACKAGE = "tuxpaint-stamps-default"
STAMPS = Path("usr/share/tuxpaint/stamps")
PICTURES = 150


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stamps: the installed package's, or unpacked from the distribution's archive."""
    installed = Path("/") / STAMPS
    if installed.is_dir():
        return installed
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip(f"{PACKAGE} is not installed, and this system has no apt-get to fetch it")
    folder = tmp_path_factory.mktemp("stamps")
    for command in (["apt-get", "download", PACKAGE], ["apt-get", "update"], ["apt-get", "download", PACKAGE]):
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{' '.join(command)} did not answer")
        if list(folder.glob("*.deb")):
            break
    archives = list(folder.glob("*.deb"))
    if not archives:
        pytest.skip(f"{PACKAGE} can't be had: {done.stderr.strip()[-200:]}")
    _unpack(archives[0], folder / "unpacked")
    return folder / "unpacked" / STAMPS


def _unpack(package: Path, folder: Path) -> None:
    """Unpack the first captioned pictures: a caption follows its picture, and the rest costs seconds."""
    names: set[str] = set()
    captions = 0
    with (
        subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            archive.extract(member, folder, filter="data")
            names.add(member.name)
            captions += member.size > 0 and member.name.endswith(".txt") and f"{member.name[:-4]}.png" in names
            if captions > PICTURES:
                break
        unpacking.kill()


@pytest.fixture(scope="module")
def dataset(stamps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stamps in LLaVA-Pretrain's layout, with one truncated picture among them."""
    folder = tmp_path_factory.mktemp("dataset")
    captioned = [
        (picture, caption.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip())
        for picture in sorted(stamps.rglob("*.png"))
        if (caption := picture.with_suffix(".txt")).is_file() and caption.stat().st_size
    ]
    entries = []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, (picture, caption) in enumerate(captioned[:PICTURES]):
            name = picture.relative_to(stamps).as_posix()
            content = picture.read_bytes()
            archive.writestr(name, content[: len(content) // 2] if number == 3 else content)
            turns = [{"from": "human", "value": "Describe the picture.\n<image>"}, {"from": "gpt", "value": caption}]
            entries.append({"id": f"stamp-{number}", "image": name, "conversations": turns})
    assert len(entries) == PICTURES
    (folder / "stamps.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("forked_launches", "small_meteor")
def test_the_stages_take_real_pictures(dataset: Path, tmp_path: Path) -> None:
    """From the folder to scores, by the stages that the DAG calls."""
    config = load_preset(
        "laptop",
        [
            f"data.source={dataset.as_uri()}",
            "data.folder.held_out_pictures=20",
            "pretrain.recipe.iterations=6",
            "pretrain.recipe.save_interval=6",
        ],
    )
    context = RunContext(run_id="stamps", run_name="stamps", workspace=tmp_path)
    raw, captions, model = prepare(config, context)
    listed = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*/*/*/rejects.jsonl")]
    assert any('"stamp-3"' in text for text in listed), "the truncated picture was not listed"
    trained = run_training(context, "pretrain", config.pretrain, model, captions).folder
    for evaluation in config.evaluations.values():
        asked = evaluation.generate.model_copy(update={"tensor_parallel": 1, "max_new_tokens": 8})
        predictions = run_generate(context, asked, trained, raw, 0).folder
        scores = read_scores(run_evaluate(context, evaluation.evaluate, [predictions], trained, raw).folder)
        assert scores.n_scored == scores.n_expected > 0
