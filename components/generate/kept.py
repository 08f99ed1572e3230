"""A model that stays open between the tasks of one process."""

import contextlib
from pathlib import Path
from typing import Self

from components.generate.answerer import Answerer
from components.generate.config import GenerateConfig
from components.generate.registry import open_answerer


class KeptAnswerer:
    """Opens a model when it is first asked, and keeps it, with what it remembers of pictures, until the block ends."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._opened: tuple[Path, int, Answerer] | None = None

    def __enter__(self) -> Self:
        """Return itself; no model is open yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Put the model away."""
        self._stack.close()
        self._opened = None

    def of(self, folder: Path, config: GenerateConfig) -> Answerer:
        """Return the model of a folder, opened now or before; another one is put away first.

        Raises:
            InputError: As `open_answerer`.
            ConfigurationError: As `open_answerer`.
        """
        if self._opened is None or self._opened[:2] != (folder, config.tensor_parallel):
            self.__exit__()
            answerer = self._stack.enter_context(open_answerer(folder, config))
            self._opened = (folder, config.tensor_parallel, answerer)
        return self._opened[2]
