"""The kinds of tasks by name: those of this package, and those that installed packages bring."""

from collections.abc import Mapping

from components.plugins import find_plugin
from components.tasks.kind import Kind
from components.tasks.kinds.captioning import Captioning
from components.tasks.kinds.mmmu import Mmmu, MmmuPro
from components.tasks.kinds.multiple_choice import MultipleChoice
from components.tasks.kinds.realworldqa import RealWorldQa
from components.tasks.kinds.short_answer import ContainedText, ExactMatch, RelaxedMatch, SimilarText
from components.tasks.kinds.vqa import TextVqa, Vqa
from components.tasks.kinds.yes_no import Mme, YesNo

ENTRY_POINTS = "vlm_pipelines.kinds"
"""Group of entry points under which a package names its kinds; each is a subclass of `Kind`."""

OWN_KINDS: Mapping[str, Kind] = {
    "captioning": Captioning(),
    "multiple_choice": MultipleChoice(),
    "mmmu": Mmmu(),
    "mmmu_pro": MmmuPro(),
    "vqa": Vqa(),
    "textvqa": TextVqa(),
    "yes_no": YesNo(),
    "mme": Mme(),
    "exact_match": ExactMatch(),
    "relaxed_match": RelaxedMatch(),
    "similar_text": SimilarText(),
    "contained_text": ContainedText(),
    "realworldqa": RealWorldQa(),
}
"""The kinds of this package."""


def find_kind(name: str) -> Kind:
    """Return a kind by its name.

    A task file can name a kind, but never code: what runs was installed.

    Raises:
        ValueError: There is no such kind, or what a package brings is none.
    """
    kind = find_plugin(name, OWN_KINDS, ENTRY_POINTS, "kind")
    if isinstance(kind, Kind):
        return kind
    if not (isinstance(kind, type) and issubclass(kind, Kind)):
        raise ValueError(f"the kind {name!r} ({kind!r}) is no subclass of components.tasks.kind.Kind")
    return kind()
