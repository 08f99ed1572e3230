"""Kubernetes itself, and the kinds of objects that training jobs need, with the versions of who serves them.

Which kinds are served is asked of the API's discovery, which everybody may read; the definitions themselves may not be.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable


@dataclass(frozen=True)
class _Kind:
    """A kind of objects that an operator brings.

    Attributes:
        name: The kind.
        group: Its API group.
        versions: The versions that this project speaks, of which one is enough.
        plural: Its name in paths.
        image: Name of the operator's image, registry and tag aside.
        install: What to do where it is missing.
    """

    name: str
    group: str
    versions: tuple[str, ...]
    plural: str
    image: str
    install: str


_PYTORCHJOB = _Kind(
    "PyTorchJob", "kubeflow.org", ("v1",), "pytorchjobs", "training-operator",
    "install Kubeflow's training operator 1.9, or choose launch.backend trainjob",
)  # fmt: skip
_TRAINJOB = _Kind(
    "TrainJob", "trainer.kubeflow.org", ("v1alpha1",), "trainjobs", "trainer-controller-manager",
    "install Kubeflow Trainer 2.3, or choose launch.backend pytorchjob",
)  # fmt: skip
_JOBSET = _Kind(
    "JobSet", "jobset.x-k8s.io", ("v1alpha2", "v1"), "jobsets", "jobset",
    "install JobSet, which Kubeflow Trainer makes its pods with",
)  # fmt: skip
_KUEUE = _Kind(
    "Kueue", "kueue.x-k8s.io", ("v1beta2",), "localqueues", "kueue",
    "install Kueue 0.15 or newer, or leave cluster.job.queue empty",
)  # fmt: skip


def kubernetes(reader: Reader, _question: Question) -> Iterator[Finding]:
    """Tell the version of Kubernetes."""
    version = reader.get("/version") or {}
    yield Finding("Kubernetes", Mark.GOOD, str(version.get("gitVersion", "of unknown version")))


def pytorchjob(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether PyTorchJobs are known."""
    yield _served(reader, _PYTORCHJOB, question.uses("pytorchjob"))


def trainjob(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether TrainJobs are known, and the JobSets that they become."""
    for kind in (_TRAINJOB, _JOBSET):
        yield _served(reader, kind, question.uses("trainjob"))


def kueue(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether there is Kueue."""
    yield _served(reader, _KUEUE, bool(question.config.cluster.job.queue))


def served_version(reader: Reader, group: str, versions: tuple[str, ...], plural: str) -> str:
    """Return the first of some versions of an API in which a kind is served; empty where none is.

    Raises:
        Unreadable: The API does not answer.
    """
    for version in versions:
        answer = reader.get(f"/apis/{group}/{version}")
        if answer and any(resource["name"] == plural for resource in answer.get("resources") or []):
            return version
    return ""


def kueue_version(reader: Reader) -> str:
    """Return the version of Kueue's API to speak; empty without Kueue.

    Raises:
        Unreadable: The API does not answer.
    """
    return served_version(reader, _KUEUE.group, _KUEUE.versions, _KUEUE.plural)


def running_version(reader: Reader, image: str) -> str:
    """Return the tag of the image that a deployment runs, in words where it can't be known.

    Args:
        reader: Looks at the cluster.
        image: The image's name, registry and tag aside.
    """
    try:
        deployments = reader.items("/apis/apps/v1/deployments")
    except Unreadable:
        return "of a version that you may not see"
    for container in _containers(deployments, image):
        tag = container["image"].partition("@")[0].rsplit("/", 1)[-1].partition(":")[2]
        if tag:
            return tag
    return "of a version that no deployment's image tells"


def operator_arguments(reader: Reader, image: str) -> list[str]:
    """Return the arguments of the operator that runs an image.

    Raises:
        Unreadable: Deployments may not be seen, or none runs it.
    """
    for container in _containers(reader.items("/apis/apps/v1/deployments"), image):
        return list(container.get("args") or [])
    raise Unreadable(f"no deployment runs {image}")


def _containers(deployments: list[Object], image: str) -> Iterator[Object]:
    """Yield the containers whose image, registry and tag aside, has a name."""
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            if container["image"].partition("@")[0].rsplit("/", 1)[-1].partition(":")[0] == image:
                yield container


def _served(reader: Reader, kind: _Kind, needed: bool) -> Finding:
    version = served_version(reader, kind.group, kind.versions, kind.plural)
    if version:
        text = f"{kind.group}/{version}, operator {running_version(reader, kind.image)}"
        return Finding(kind.name, Mark.GOOD if needed else Mark.FACT, text)
    if needed:
        return Finding(kind.name, Mark.BAD, f"no {kind.group}/{kind.versions[0]} here", kind.install)
    return Finding(kind.name, Mark.FACT, "not here, and not asked for")
