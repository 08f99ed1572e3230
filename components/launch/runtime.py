"""The ClusterTrainingRuntime behind a TrainJob: what it must not do is found before anything is submitted.

A runtime decides what becomes of a pod that fails. The stock `torch-distributed` says nothing, which means: restarted in place, up
to six times. One restarted rank then waits for the others, which have started again some seconds apart.
"""

from collections.abc import Mapping
from typing import Any

from components.launch.errors import JobRejected

NODE = "node"
"""Name of the replicated job that trains, and of its container, as in Trainer's own torch runtimes."""

OURS = "manifests/trainer/runtime.yaml"
_KUBERNETES_GRACE_S = 30


def check_runtime(name: str, runtime: Mapping[str, Any] | None, grace_s: int) -> None:
    """Check that a runtime leaves a failed training to the launcher.

    Args:
        name: Its name.
        runtime: The object; None where the cluster has none of the name.
        grace_s: Seconds that its pods must have to save a checkpoint.

    Raises:
        JobRejected: There is no such runtime, or it would restart ranks by itself, or not give them the time to save.
    """
    if runtime is None:
        raise JobRejected(
            f"There is no ClusterTrainingRuntime {name!r} (cluster.job.runtime). The project's own is made with "
            f"`kubectl apply -f {OURS}`."
        )
    problems = runtime_problems(runtime, grace_s)
    if problems:
        raise JobRejected(
            f"The ClusterTrainingRuntime {name!r} (cluster.job.runtime) does not fit: {'; '.join(problems)}. Take the "
            f"project's own ({OURS}, cluster.job.runtime vlm-torch), or change it likewise."
        )


def runtime_problems(runtime: Mapping[str, Any], grace_s: int) -> list[str]:
    """Return what does not fit in a runtime, each with its field."""
    spec = runtime.get("spec") or {}
    job_set = (spec.get("template") or {}).get("spec") or {}
    replicated = {str(job.get("name")): job for job in job_set.get("replicatedJobs") or []}
    if NODE not in replicated:
        return [f"it has no replicated job {NODE!r}"]
    job = (replicated[NODE].get("template") or {}).get("spec") or {}
    pod = (job.get("template") or {}).get("spec") or {}
    problems = []
    if NODE not in [container.get("name") for container in pod.get("containers") or []]:
        problems.append(f"its replicated job {NODE!r} has no container {NODE!r}")
    if "torch" not in (spec.get("mlPolicy") or {}):
        problems.append("spec.mlPolicy has no torch, so ranks don't learn where they stand")
    if (policy := pod.get("restartPolicy", "OnFailure")) != "Never":
        problems.append(f"it restarts ranks that fail in place (restartPolicy {policy}; must be Never)")
    if (limit := job.get("backoffLimit", 6)) != 0:
        problems.append(f"it replaces pods that fail (backoffLimit {limit}; must be 0)")
    if (replacement := job.get("podReplacementPolicy", "TerminatingOrFailed")) != "Failed":
        problems.append(
            f"it starts a pod's replacement while the pod still ends (podReplacementPolicy {replacement}; must be Failed)"
        )
    problems += _restarts(job_set.get("failurePolicy") or {})
    grace = pod.get("terminationGracePeriodSeconds", _KUBERNETES_GRACE_S)
    if grace < grace_s:
        problems.append(
            f"its pods get {grace} s to save (terminationGracePeriodSeconds), cluster.job.grace_s asks for {grace_s}"
        )
    return problems


def _restarts(policy: Mapping[str, Any]) -> list[str]:
    """Return how a JobSet's failure policy restarts its jobs."""
    found = []
    if policy.get("maxRestarts"):
        found.append(f"it restarts the whole job set (failurePolicy.maxRestarts {policy['maxRestarts']}; must be 0)")
    actions = {str(rule.get("action")) for rule in policy.get("rules") or []} - {"FailJobSet"}
    if actions:
        found.append(f"its failurePolicy has rules that restart ({', '.join(sorted(actions))}; must be FailJobSet)")
    return found
