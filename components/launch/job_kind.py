"""What the launcher must know of a kind of training job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.launch.job import TrainingJob

Phase = Literal["pending", "suspended", "running", "succeeded", "failed"]


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        phase: Its phase, the same names for every kind.
        reason: The operator's reason, in CamelCase.
        message: The operator's message.
    """

    phase: Phase
    reason: str = ""
    message: str = ""

    @property
    def over(self) -> bool:
        """True when the job has succeeded or failed."""
        return self.phase in ("succeeded", "failed")


@dataclass(frozen=True)
class JobKind:
    """A kind of training job.

    Attributes:
        kind: Kind of the object ("PyTorchJob").
        group: API group.
        version: API version.
        plural: Plural name in URLs.
        container: Name of the training container.
        operator: What must be installed on the cluster.
        render: Makes the object of a job; pure.
        status: Reads how an object of the cluster stands.
        pod_selector: Label selector of a job's pods, by the job's name.
        node_rank: Number of a pod's node, by the pod's labels.
        suspends: A job must be suspended before it is deleted, since its operator makes new pods for those that the deletion
            ends.
    """

    kind: str
    group: str
    version: str
    plural: str
    container: str
    operator: str
    render: Callable[[TrainingJob], dict[str, Any]]
    status: Callable[[Mapping[str, Any]], JobStatus]
    pod_selector: Callable[[str], str]
    node_rank: Callable[[Mapping[str, str]], int]
    suspends: bool = False

    @property
    def api_version(self) -> str:
        """The object's `apiVersion`."""
        return f"{self.group}/{self.version}"


def true_conditions(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the conditions of an object that are true, by type."""
    conditions = (body.get("status") or {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}
