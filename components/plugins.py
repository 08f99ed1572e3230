"""What this package knows by name and installed packages may add to; files name it, and never code."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def find_plugin(name: str, own: Mapping[str, Any], group: str, what: str) -> Any:
    """Return what a name stands for: this package's own, or else an installed package's.

    Args:
        name: The name.
        own: What this package has.
        group: Group of entry points under which other packages name theirs.
        what: What is looked for, for errors.

    Raises:
        ValueError: Nothing has that name, or it can't be loaded.
    """
    if name in own:
        return own[name]
    found = entry_points(group=group)
    if name not in found.names:
        raise ValueError(
            f"there is no {what} {name!r}; known are {', '.join([*own, *sorted(found.names)])}. Another {what} comes with "
            f"an installed package that has an entry point {group}"
        )
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the {what} {name!r} can't be loaded from {found[name].value}: {error!r}") from error
