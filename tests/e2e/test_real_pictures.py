"""Real pictures of the wild kind: the clip-art and photographs of Debian's tuxpaint-stamps-default, with their captions."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
    subprocess.run(["dpkg", "-x", str(archives[0]), str(folder / "unpacked")], check=True)
    return folder / "unpacked" / STAMPS


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


def test_the_dag_takes_real_pictures(dataset: Path, tmp_path: Path) -> None:
    settings = {
        "data.source": dataset.as_uri(),
        "data.folder.held_out_pictures": "20",
        "pretrain.recipe.iterations": "6",
        "pretrain.recipe.save_interval": "6",
        "sft.recipe.iterations": "4",
    }
    options = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pipelines.cli", "run", "--workspace", str(tmp_path), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    listed = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*/*/*/rejects.jsonl")]
    assert any('"stamp-3"' in text for text in listed), "the truncated picture was not listed"
    (scores,) = tmp_path.glob("evaluate/captioning/*/scores.json")
    assert json.loads(scores.read_text())["n_scored"] > 0
