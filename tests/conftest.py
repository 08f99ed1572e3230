"""What all tests share: quiet libraries, few threads, one MLflow store per test process."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before anything imports torch: the tests share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "VLM_RUN_ID", "VLM_PRESET"):
    os.environ.pop(_name, None)

# A slow machine is no failure.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def tracking_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose MLflow database is made once: creating its tables takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="session")
def tracking_uri(tracking_workspace: Path) -> str:
    """URI of a real SQLite MLflow store."""
    return f"sqlite:///{tracking_workspace}/mlflow.db"
