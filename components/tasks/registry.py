"""The kinds of tasks by name: those of this package, and those that installed packages bring."""

from collections.abc import Mapping
from importlib.metadata import entry_points

from components.tasks.kind import Kind
from components.tasks.kinds.captioning import Captioning
from components.tasks.kinds.mmmu import Mmmu
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.vqa import Vqa

ENTRY_POINTS = "vlm_pipelines.kinds"
"""Group of entry points under which a package names its kinds; each is a subclass of `Kind`."""

OWN_KINDS: Mapping[str, Kind] = {
    "captioning": Captioning(),
    "multiple_choice": MultipleChoice(),
    "mmmu": Mmmu(),
    "vqa": Vqa(),
}
"""The kinds of this package."""


def find_kind(name: str) -> Kind:
    """Return a kind by its name.

    A task file can name a kind, but never code: what runs was installed.

    Raises:
        ValueError: There is no such kind, or what a package brings is none.
    """
    if name in OWN_KINDS:
        return OWN_KINDS[name]
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        raise ValueError(
            f"there is no kind {name!r}; known are {', '.join([*OWN_KINDS, *sorted(found.names)])}. Another kind comes with "
            f"an installed package that has an entry point {ENTRY_POINTS}"
        )
    try:
        kind = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the kind {name!r} can't be loaded from {found[name].value}: {error!r}") from error
    if not (isinstance(kind, type) and issubclass(kind, Kind)):
        raise ValueError(f"the kind {name!r} ({found[name].value}) is no subclass of components.tasks.kind.Kind")
    return kind()
