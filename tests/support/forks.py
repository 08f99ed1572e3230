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
    """Run a server whose forks have what trainings and generation import.

    Args:
        folder: Where the stand-in for `python3` is written.

    Yields:
        Variables for the environment of what launches; none where processes can't be forked.
    """
    if not may_fork():
        yield {}
        return
    with fork_server(folder, IMPORTED_BY_TRAINING) as variables:
        command = [variables["PYTHON_EXEC"], "-m", "tests.support.forks"]
        # The server answers between two imports: there are no more vain questions than modules.
        for _ in range(len(IMPORTED_BY_TRAINING) + 1):
            if not subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode:
                break
        else:
            raise RuntimeError("The fork server has not imported what it should.")
        yield variables


if __name__ == "__main__":
    sys.exit(not all(name in sys.modules for name in IMPORTED_BY_TRAINING))
