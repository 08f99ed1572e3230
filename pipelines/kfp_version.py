"""What a version of Kubeflow Pipelines can't do that this pipeline needs."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Flaw:
    """Something that older installations do wrong.

    Attributes:
        before: The first version that does it right.
        what: What happens with this pipeline.
    """

    before: tuple[int, int]
    what: str


FLAWS = (
    Flaw((2, 16), "stages' pods are not hardened: a namespace that enforces pod security `restricted` refuses them"),
    # github.com/kubeflow/pipelines/issues/12390 and 13321
    Flaw(
        (2, 17), "an exit handler around loops breaks: the run fails at once, or close_run is told that it still runs"
    ),
    # github.com/kubeflow/pipelines/issues/13239
    Flaw(
        (2, 17),
        "what collects from a named loop does not find it: generation in partitions, conversion in several tasks",
    ),
)
_NEEDED = max(flaw.before for flaw in FLAWS)


def warnings(version: str) -> list[str]:
    """Return what is known to break on a version of Kubeflow Pipelines.

    Args:
        version: What the server says, as "2.16.1"; empty or other words where it does not know.
    """
    needed = ".".join(map(str, _NEEDED))
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match is None:
        return [
            f"Kubeflow Pipelines does not say its version ({version or 'nothing'}); this pipeline needs {needed} or newer"
        ]
    found = (int(match[1]), int(match[2]))
    return [
        f"Kubeflow Pipelines is {version}, older than {needed}: {flaw.what}" for flaw in FLAWS if found < flaw.before
    ]
