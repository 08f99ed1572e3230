"""Published models become finished folders: which files, found by what, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.context import RunContext
from components.errors import InputError
from components.published_model.config import Endpoint, PublishedModel, hub_source
from components.published_model.stage import run_published_model, trusts_code
from tests.support.hub_server import COMMIT, publish
from tests.support.web_server import WebServer, web_server

REPOSITORY = "org/seer-7b"
FILES = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 2000,
    "model-00002-of-00002.safetensors": b"b" * 2000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/short.jinja": b"{{ messages }}",
    "modeling_seer.py": b"import os",
    "pytorch_model.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "model.safetensors": b"the same again" * 100,
    "onnx/model.onnx": b"another format",
    "original/config.json": b"{}",
    ".gitattributes": b"",
}
FETCHED = sorted(
    name
    for name in FILES
    if not name.startswith(("onnx", "original", "pytorch", ".git", "modeling")) and name != "model.safetensors"
)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with web_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path / "workspace")


def files_of(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != "manifest.json")


def model_of(files: dict[str, bytes], folder: Path) -> PublishedModel:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return PublishedModel(source=folder.as_uri())


def test_a_model_of_the_hub(web: WebServer, context: RunContext) -> None:
    publish(web, REPOSITORY, FILES, revisions=("main", "v1"))
    source = hub_source(f"{REPOSITORY}@v1")
    assert source == f"hf://{REPOSITORY}@v1"
    output = run_published_model(context, PublishedModel(source=source), "seer")
    assert output.manifest.stage == "published_model/seer"
    assert files_of(output.folder) == FETCHED
    assert all((output.folder / name).read_bytes() == FILES[name] for name in FETCHED)
    assert output.manifest.facts["name"] == f"{REPOSITORY}@v1"
    assert not trusts_code(output.folder)
    again = run_published_model(context, PublishedModel(source=f"hf://{REPOSITORY}@{COMMIT}"), "seer")
    assert again.manifest.files == output.manifest.files
    # A branch that has moved on is another model.
    publish(web, REPOSITORY, {**FILES, "model-00002-of-00002.safetensors": b"c" * 2000}, revisions=("main", "v1"))
    moved = run_published_model(context, PublishedModel(source=source), "seer")
    assert moved.folder != output.folder


def test_code_comes_along_only_where_it_is_trusted(context: RunContext, tmp_path: Path) -> None:
    model = model_of(FILES, tmp_path / "seer")
    trusted = model.model_copy(update={"trust_remote_code": True})
    output = run_published_model(context, trusted, "seer")
    assert files_of(output.folder) == sorted([*FETCHED, "modeling_seer.py"])
    assert trusts_code(output.folder)
    plain = run_published_model(context, model, "seer")
    assert plain.folder != output.folder
    assert not trusts_code(plain.folder)
    # The folder's own word is not enough.
    (plain.folder / "published_model.json").write_text(json.dumps({"trust_remote_code": True}))
    assert not trusts_code(plain.folder)
    assert not trusts_code(tmp_path / "seer")


@pytest.mark.parametrize(
    ("leave_out", "complaint"),
    [
        ("config.json", "config.json is missing"),
        (".safetensors", r"no model\*\.safetensors, and no other weights are loaded"),
    ],
)
def test_what_is_no_model_is_refused(context: RunContext, tmp_path: Path, leave_out: str, complaint: str) -> None:
    files = {name: content for name, content in FILES.items() if not name.endswith(leave_out)}
    with pytest.raises(InputError, match=complaint):
        run_published_model(context, model_of(files, tmp_path / "seer"), "seer")


def test_an_endpoint_is_found_by_what_decides_its_answers(context: RunContext) -> None:
    def folder(**changes: Any) -> Path:
        endpoint = Endpoint(**{"url": "http://host:8000/v1", "name": "seer", **changes})
        return run_published_model(context, PublishedModel(endpoint=endpoint), "served").folder

    first = folder()
    assert files_of(first) == ["endpoint.json"]
    assert folder() == first
    others = [folder(name="other"), folder(url="http://host:8001/v1"), folder(body={"top_k": 1})]
    assert len({first, *others}) == 4
    assert PublishedModel(endpoint=Endpoint(url="http://host:8000/v1", name="seer")).name == "seer at host:8000"


@pytest.mark.parametrize(
    "text", ["my-run", "workspace/sft/0123/x", "../model", "models:/seer@best", "org/", "/org/name"]
)
def test_what_is_no_name_of_the_hub(text: str) -> None:
    assert hub_source(text) == ""


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "a source or an endpoint"),
        ({"source": "hf://a/b", "endpoint": {"url": "http://h", "name": "a"}}, "a source or an endpoint"),
        ({"endpoint": {"url": "http://h", "name": "a"}, "trust_remote_code": True}, "runs elsewhere"),
    ],
)
def test_models_that_can_not_be_meant_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PublishedModel.model_validate(settings)
