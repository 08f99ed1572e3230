"""Who may do what: the pipeline's service account, which launches jobs, and you, who follow and cancel them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Reader

_PROFILE_ACCOUNT = "default-editor"  # Kubeflow's, in the namespace of a Profile
_SINGLE_USER_ACCOUNT = "pipeline-runner"
_YOURS = "your rights"


@dataclass(frozen=True)
class Right:
    """One thing to do with one kind of objects.

    Attributes:
        verb: What is done.
        group: API group of the objects; empty for Kubernetes' core.
        resource: Their plural; a subresource behind a slash.
        cluster_wide: The objects are in no namespace.
    """

    verb: str
    group: str
    resource: str
    cluster_wide: bool = False

    @property
    def words(self) -> str:
        """The right as a message has it, as "get pods"."""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"

    def attributes(self, namespace: str) -> dict[str, str]:
        """Return the right as Kubernetes' access reviews ask for it."""
        resource, _, subresource = self.resource.partition("/")
        found = {"verb": self.verb, "group": self.group, "resource": resource, "subresource": subresource}
        return found if self.cluster_wide else {**found, "namespace": namespace}


_PODS = (Right("list", "", "pods"), Right("get", "", "pods/log"), Right("list", "", "events"))
_JOBS = {"pytorchjob": ("kubeflow.org", "pytorchjobs"), "trainjob": ("trainer.kubeflow.org", "trainjobs")}


def launcher_rights(backend: str, queued: bool) -> list[Right]:
    """Return what a launcher does with the API, as manifests/base/rbac.yaml and manifests/trainer/runtime.yaml allow it.

    Args:
        backend: The kind of its jobs.
        queued: Kueue admits them.
    """
    group, plural = _JOBS[backend]
    rights = [Right(verb, group, plural) for verb in ("get", "create", "patch", "delete")]
    rights += _PODS
    if backend == "trainjob":
        rights.append(Right("get", group, "clustertrainingruntimes", cluster_wide=True))
    if queued:
        rights.append(Right("list", "kueue.x-k8s.io", "workloads"))
    return rights


def of_service_account(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the run's pods may launch and follow training jobs."""
    account = question.service_account or _kfp_account(reader, question.namespace)
    if not account:
        text = f"neither {_PROFILE_ACCOUNT} nor {_SINGLE_USER_ACCOUNT} in the namespace {question.namespace}"
        advice = "make a Profile of this name, or name the run's service account with --service-account"
        yield Finding("service account", Mark.BAD, text, advice)
        return
    queued = bool(question.config.cluster.job.queue)
    asked = [right for backend in _JOBS if question.uses(backend) for right in launcher_rights(backend, queued)]
    if not asked:
        yield Finding("service account", Mark.FACT, f"{account}; training in the stages' own pods asks for no rights")
        return
    user = f"system:serviceaccount:{question.namespace}:{account}"
    missing = [
        right
        for right in dict.fromkeys(asked)
        if not _may(reader, "subjectaccessreviews", {"user": user}, right, question.job_namespace)
    ]
    if missing:
        text = f"{account} may not {', '.join(right.words for right in missing)}"
        advice = "bind the Role vlm-launcher to it (manifests/base/rbac.yaml; for TrainJobs also manifests/trainer/runtime.yaml)"
        yield Finding("service account", Mark.BAD, text, advice)
    else:
        yield Finding("service account", Mark.GOOD, f"{account} may launch and follow training jobs")


def of_user(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell what you may see of a run and end; `vlm submit` itself asks Kubeflow Pipelines only."""
    jobs = [Right("delete", *_JOBS[backend]) for backend in _JOBS if question.uses(backend)]
    for rights, use in ((_PODS, "see why pods wait, and their logs"), (jobs, "end training jobs")):
        missing = [
            right for right in rights if not _may(reader, "selfsubjectaccessreviews", {}, right, question.job_namespace)
        ]
        if missing:
            text = f"you may not {', '.join(right.words for right in missing)}"
            yield Finding(_YOURS, Mark.FACT, text, f"without these vlm can't {use}; ask for the Role view or edit")
        elif rights:
            yield Finding(_YOURS, Mark.GOOD, f"you may {use}")


def _kfp_account(reader: Reader, namespace: str) -> str:
    for account in (_PROFILE_ACCOUNT, _SINGLE_USER_ACCOUNT):
        if reader.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}") is not None:
            return account
    return ""


def _may(reader: Reader, review: str, who: dict[str, Any], right: Right, namespace: str) -> bool:
    kinds = {
        "subjectaccessreviews": "SubjectAccessReview",
        "selfsubjectaccessreviews": "SelfSubjectAccessReview",
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": kinds[review],
        "spec": {**who, "resourceAttributes": right.attributes(namespace)},
    }
    answer = reader.post(f"/apis/authorization.k8s.io/v1/{review}", body)
    return bool((answer.get("status") or {}).get("allowed"))
