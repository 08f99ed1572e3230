"""Which distribution an import comes from, by the files that are installed."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distribution, packages_distributions


def normalised(name: str) -> str:
    """Return a distribution's name as names are compared (https://packaging.python.org/specifications/name-normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def owners(imported: str) -> set[str]:
    """Return the distributions that an imported module or name (`a.b.c`) may come from; several share some packages.

    Of distributions that share a top-level package, those count that own the longest beginning of the import.
    """
    parts = imported.split(".")
    names = set(_top_level().get(parts[0], ()))
    for length in range(len(parts), 1, -1):
        found = {name for name in names if "/".join(parts[:length]) in _modules(name)} if len(names) > 1 else set()
        if found:
            return {normalised(name) for name in found}
    return {normalised(name) for name in names}


@cache
def _top_level() -> dict[str, Sequence[str]]:
    return dict(packages_distributions())


@cache
def _modules(name: str) -> frozenset[str]:
    """Return the packages and modules of a distribution, as paths without extension."""
    modules = set()
    for file in distribution(name).files or []:
        if file.suffix in (".py", ".so"):
            path = file.as_posix().removesuffix(".py").removesuffix("/__init__")
            modules.add(path.split(".")[0])
    return frozenset(modules)
