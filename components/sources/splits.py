"""Which files are which split: the library `datasets` decides, by names and by the dataset's card, as everywhere else."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.errors import InputError
from components.sources.config import DEFAULT_SPLIT
from components.sources.tables.registry import TABLES, is_table

CARD = "README.md"


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split.

    Attributes:
        config: Name of the configuration.
        split: Name of the split.
        names: Its files, in the order in which their rows follow each other.
    """

    config: str
    split: str
    names: tuple[str, ...]


def split_files(names: Sequence[str], card: bytes | None, config: str, split: str, shown: str) -> SplitFiles:
    """Find the files of a split.

    `datasets` is shown a folder of empty files of these names: what it makes of names and card does not depend on where the
    files are, and needs no network.

    Args:
        names: The files of the dataset.
        card: Its README.md, which may describe configurations and splits.
        config: Name of the configuration; empty where there is one alone.
        split: Name of the split.
        shown: The dataset, for errors.

    Raises:
        InputError: There are no tables, or no such configuration or split.
    """
    tables = [name for name in names if is_table(name)]
    if not tables:
        raise InputError(f"{shown} has no files with rows: expected {', '.join(TABLES)}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "dataset"
        for name in tables:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if card is not None:
            (folder / CARD).write_bytes(card)
        configs, chosen, found = _resolved(folder, Path(temporary) / "cache", config, shown)
    if split not in found:
        hint = "" if len(configs) < 2 else f" of the configuration {chosen}"
        raise InputError(f"{shown} has no split {split!r}{hint}; there are {', '.join(sorted(found))}.")
    kinds = sorted({PurePosixPath(name).suffix for name in found[split]})
    if any(not is_table(name) for name in found[split]):
        raise InputError(
            f"{shown}: the split {split} has files {', '.join(kinds)}; these are streamed: {', '.join(TABLES)}."
        )
    return SplitFiles(chosen, split, tuple(found[split]))


def single_file(name: str, split: str) -> SplitFiles:
    """Return the only file of a URI that names one: it is the split, whatever its name."""
    return SplitFiles("default", split or DEFAULT_SPLIT, (name,))


def _resolved(folder: Path, cache: Path, config: str, shown: str) -> tuple[list[str], str, Mapping[str, list[str]]]:
    """Return the configurations, the chosen one, and its files by split."""
    with _offline():
        import datasets  # slow to import

        try:
            configs = datasets.get_dataset_config_names(str(folder))
            if config and config not in configs:
                raise InputError(f"{shown} has no configuration {config!r}; there are {', '.join(configs)}.")
            if not config and len(configs) > 1 and "default" not in configs:
                raise InputError(f"{shown} has several configurations: say in `config` which of {', '.join(configs)}.")
            builder = datasets.load_dataset_builder(str(folder), name=config or None, cache_dir=str(cache))
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"{shown} is not as `datasets` expects a dataset: {error}") from None
    files = builder.config.data_files or {}
    root = folder.resolve()
    found = {
        str(split): [Path(os.path.realpath(path)).relative_to(root).as_posix() for path in paths]
        for split, paths in files.items()
    }
    return configs, builder.config.name, found


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep what `datasets` prints of its progress off the screen."""
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
