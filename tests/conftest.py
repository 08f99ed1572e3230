"""What all tests share: nothing of the user's own, quiet libraries, few threads, one MLflow store per test process."""

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A test that asked the user's cluster, bucket, tracking server or hub would do harm there, and prove nothing here. Set before
# anything is imported: libraries read their configuration's place once.
_USERS = re.compile(
    r"(aws|hf|huggingface|hugging_face|transformers|mlflow|databricks|kubernetes|kf|xdg)_\w+|kubeconfig|\w+_proxy"
    r"|(requests|curl)_ca_bundle|ssl_cert_\w+|vlm_(?!test_)\w+",
    re.IGNORECASE,
)
for _name in [name for name in os.environ if _USERS.fullmatch(name)]:
    del os.environ[_name]
_HOME = tempfile.mkdtemp(prefix="vlm-test-home-")
os.environ["HOME"] = _HOME

_FORKS = "fork_variables"  # what a worker of pytest-xdist finds them by
_FORK_VARIABLES = pytest.StashKey[dict[str, str]]()

# The libraries make a million objects, and none of them is garbage.
gc.disable()

# The tests share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# A slow machine is no failure.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collection, for good: energon's loaders collect often, and let go what is frozen."""
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the processes of a parallel run share one server of forks: its imports cost seven processor seconds."""
    from tests.support.forks import forks

    if _FORK_VARIABLES not in node.config.stash:
        server = ExitStack()
        node.config.add_cleanup(server.close)
        node.config.stash[_FORK_VARIABLES] = dict(server.enter_context(forks(Path(_HOME, "forks"))))
    node.workerinput[_FORKS] = node.config.stash[_FORK_VARIABLES]


def pytest_unconfigure() -> None:
    """Remove the home folder of this test process."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, to be copied: creating its tables takes seconds."""
    from components.tracking.client import connect

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def tracking_workspace(tracking_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an MLflow database."""
    folder = tmp_path_factory.mktemp("tracking")
    shutil.copy(tracking_database, folder)
    return folder


@pytest.fixture(scope="session")
def tracking_uri(tracking_workspace: Path) -> str:
    """URI of a real SQLite MLflow store."""
    return f"sqlite:///{tracking_workspace}/mlflow.db"


@pytest.fixture(scope="session")
def shallow_stacks() -> None:
    """Compiling costs what it costs outside of pytest."""
    from tests.support.shallow_stacks import use_shallow_stacks

    use_shallow_stacks()


@pytest.fixture(scope="session")
def fork_variables(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, str]]:
    """The environment of launchers whose torchrun and ranks are forks of one server, which has imported the engine."""
    from tests.support.forks import forks, wait_for_imports

    with ExitStack() as own:
        variables = getattr(pytestconfig, "workerinput", {}).get(_FORKS)
        if variables is None:
            variables = own.enter_context(forks(tmp_path_factory.mktemp("forks")))
        if variables:
            wait_for_imports(variables)
        yield variables


@pytest.fixture(scope="module")
def forked_launches(fork_variables: Mapping[str, str]) -> Iterator[None]:
    """Torchrun and its ranks are forks, whatever launches them in this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fork_variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def small_meteor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """METEOR has few paraphrases in this file, and starts at once."""
    from tests.support.small_meteor import small_meteor

    with small_meteor(tmp_path_factory.mktemp("meteor")):
        yield
