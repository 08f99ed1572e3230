"""A network volume that fails: system calls below a folder end in errors, for a while or for ever."""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_CALLS = ((builtins, "open"), (io, "open"), (os, "stat"), (os, "scandir"))


class FailingVolume:
    """Whatever opens, lists or asks for the size of something whose path ends in `name` meets `error`.

    Args:
        monkeypatch: Puts everything back at the end of the test, and spares it the waiting.
        folder: Only what is in here fails.
        name: End of the path.
        error: What the system calls answer.
        times: How many calls fail before the volume is back.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, error: OSError, times: float = float("inf")
    ) -> None:
        self.failed = 0
        self.waited_s: list[float] = []
        self._folder, self._name, self._error, self._times = str(folder), name, error, times
        for module, call in _CALLS:
            monkeypatch.setattr(module, call, self._failing(getattr(module, call)))
        monkeypatch.setattr("components.storage.volume.time.sleep", self.waited_s.append)

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            shown = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if isinstance(shown, str) and shown.startswith(self._folder) and shown.endswith(self._name):
                self.failed += 1
                if self.failed <= self._times:
                    raise type(self._error)(*self._error.args, shown)
            return real(path, *arguments, **options)

        return call
