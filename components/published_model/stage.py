"""The stage: a published model becomes a finished folder that can be asked like a trained one."""

import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.context import RunContext
from components.download.fetched import Fetched, Wanted, fetch_sources
from components.errors import InputError
from components.published_model.config import Endpoint, PublishedModel
from components.published_model.files import needed_files
from components.stage.manifest import MANIFEST_NAME, read_manifest
from components.stage.runner import StageOutput, StageWork, run_stage
from components.storage.atomic import write_text
from components.storage.transfer import link_or_copy

PREFIX = "published_model/"
ENDPOINT_FILE = "endpoint.json"
VERSION = 1


class _Identity(BaseModel):
    """What of the settings decides the folder; where the files come from is an input."""

    trust_remote_code: bool


def run_published_model(context: RunContext, config: PublishedModel, name: str) -> StageOutput:
    """Put a published model where the generation finds it.

    Args:
        context: The pipeline run.
        config: The model.
        name: What the run calls it.

    Returns:
        A folder with the model's files, found by their content; or with `endpoint.json`, found by address and name.

    Raises:
        ConfigurationError: A URI or the environment can't work.
        InputError: There is no such model, or it has no safetensors.
        StageError: Its server can't be reached, or the disk is too small.
    """
    stage = f"{PREFIX}{name}"
    if config.endpoint is not None:
        return _describe(context, stage, config.endpoint, config.name)
    setting = f"models.{name}.source"
    wanted = Wanted(setting, config.source, needed_files(config.trust_remote_code))
    fetched = fetch_sources(context, [wanted], config.transfer, None, ())[setting]
    if not fetched.is_folder:
        raise InputError(f"{setting} names {fetched.shown}, which is one file: name the model's folder or repository.")

    def body(work: StageWork) -> dict[str, Any]:
        _place(fetched, work)
        return {"name": config.name, "source": fetched.shown, "trust_remote_code": config.trust_remote_code}

    return run_stage(
        context,
        stage=stage,
        version=VERSION,
        inputs={"source": fetched.identity},
        settings=_Identity(trust_remote_code=config.trust_remote_code),
        body=body,
    )


def published_name(folder: Path) -> str:
    """Return what the published model in a finished folder is called; empty for a model of ours."""
    manifest = read_manifest(folder)
    return str(manifest.facts["name"]) if manifest.stage.startswith(PREFIX) else ""


def trusts_code(folder: Path) -> bool:
    """Tell whether the code in a model's folder may run: only where its settings said so when it was fetched."""
    if not (folder / MANIFEST_NAME).is_file():
        return False
    manifest = read_manifest(folder)
    return manifest.stage.startswith(PREFIX) and manifest.facts.get("trust_remote_code") is True


def _describe(context: RunContext, stage: str, endpoint: Endpoint, name: str) -> StageOutput:
    def body(work: StageWork) -> dict[str, Any]:
        write_text(work.folder / ENDPOINT_FILE, endpoint.model_dump_json(indent=2) + "\n")
        return {"name": name}

    return run_stage(context, stage=stage, version=VERSION, inputs={}, settings=endpoint, body=body)


def _place(fetched: Fetched, work: StageWork) -> None:
    """Give the files a second name in the stage folder (copies across file systems)."""
    for left in work.folder.iterdir():  # by an interrupted run, perhaps of other files
        left.unlink() if left.is_file() else shutil.rmtree(left)
    for name in fetched.names:
        link_or_copy(fetched.folder / name, work.folder / name, work.progress)
        if fetched.manifest is not None:
            work.known_files[name] = fetched.manifest.files[name]
