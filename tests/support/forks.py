"""Torchrun and its ranks as forks of a server, as below `vlm run`: what is started needs no seconds of imports.

As a program it tells, by its exit code, whether the process it runs in was forked with everything imported.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.fork_server import fork_server, may_fork
from pipelines.local_worker import IMPORTED_BY_TRAINING
from tests.support.paths import ROOT


@contextmanager
def forks(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run a server whose forks have what trainings and generation import, see `wait_for_imports`.

    Args:
        folder: Where the stand-in for `python3` is written.

    Yields:
        Variables for the environment of what launches; none where processes can't be forked.
    """
    if may_fork():
        with fork_server(folder, IMPORTED_BY_TRAINING) as variables:
            yield variables
    else:
        yield {}


def wait_for_imports(variables: Mapping[str, str]) -> None:
    """Wait until the forks of a server have everything imported."""
    command = [variables["PYTHON_EXEC"], "-m", "tests.support.forks"]
    # The server answers between two imports: there are no more vain questions than modules.
    for _ in range(len(IMPORTED_BY_TRAINING) + 1):
        if not subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode:
            return
    raise RuntimeError("The fork server has not imported what it should.")


if __name__ == "__main__":
    sys.exit(not all(name in sys.modules for name in IMPORTED_BY_TRAINING))
