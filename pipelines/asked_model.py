"""Which model `vlm evaluate` means: a run's, a folder, one of the hub, or one behind an endpoint."""

from dataclasses import dataclass
from pathlib import Path

from components.context import RunContext
from components.errors import InputError
from components.generate.registry import BACKENDS
from components.published_model.config import Endpoint, PublishedModel, hub_source
from components.published_model.stage import run_published_model
from components.runs.find import Places, Run, find_run, find_stage
from components.runs.folder import is_run_folder
from components.stage.manifest import MANIFEST_NAME
from components.stage.runner import input_identity

TUNED = "sft"
_NAME = "asked"  # of a published model's stage: what is asked is one model


@dataclass(frozen=True)
class AskedModel:
    """A model that is to be asked.

    Attributes:
        name: What people call it.
        folder: Its finished folder; None for a published model, which is fetched first.
        published: The settings of a published model; None for a folder.
        run: The run whose model it is; None for any other.
    """

    name: str
    folder: Path | None = None
    published: PublishedModel | None = None
    run: Run | None = None

    def place(self, context: RunContext) -> Path:
        """Return its finished folder, fetched now or before.

        Raises:
            InputError: As `run_published_model`.
            StageError: As `run_published_model`.
        """
        if self.folder is not None:
            return self.folder
        assert self.published is not None
        return run_published_model(context, self.published, _NAME).folder


def served_model(url: str, name: str) -> AskedModel:
    """Return the model behind an endpoint.

    Raises:
        ValidationError: The address can't be one.
    """
    published = PublishedModel(endpoint=Endpoint(url=url, name=name))
    return AskedModel(published.name, published=published)


def find_model(reference: str, places: Places, stage: str = TUNED, trust_remote_code: bool = False) -> AskedModel:
    """Return the model that a reference names.

    The first that fits is meant: a folder (of a run, of a finished stage, of a model in transformers' layout), a URI, a model of the
    hub (`ORG/NAME[@REVISION]`), a run.

    Args:
        reference: What the model is called.
        places: Where runs are looked for.
        stage: The stage of a run whose model is meant.
        trust_remote_code: Run the code that comes with a published model.

    Raises:
        InputError: There is no such model.
    """
    path = Path(reference)
    if path.is_dir() and not is_run_folder(path):
        return _of_folder(path.absolute(), trust_remote_code)
    source = reference if "://" in reference else "" if path.exists() else hub_source(reference)
    if source:
        published = PublishedModel(source=source, trust_remote_code=trust_remote_code)
        return AskedModel(published.name, published=published)
    run = find_run(reference, places)
    found = find_stage(run, stage)
    if found is None:
        raise InputError(
            f"The run {run.run_id} has no finished stage {stage}: name another one with --stage, or the folder of a model."
        )
    if found.folder is None:
        looked = " or ".join(str(workspace / stage / found.key) for workspace in run.workspaces)
        raise InputError(f"The model of the run {run.run_id} is not here: {looked}. Mount its workspace.")
    return AskedModel(f"{run.name}/{stage}", folder=found.folder, run=run)


def _of_folder(folder: Path, trust_remote_code: bool) -> AskedModel:
    markers = [backend.marker for backend in BACKENDS]
    if not any((folder / marker).is_file() for marker in markers):
        raise InputError(f"{folder} is neither a run nor a model: it has none of {', '.join(markers)}.")
    if (folder / MANIFEST_NAME).is_file():
        return AskedModel(input_identity(folder), folder=folder)
    published = PublishedModel(source=folder.as_uri(), trust_remote_code=trust_remote_code)
    return AskedModel(folder.name, published=published)
