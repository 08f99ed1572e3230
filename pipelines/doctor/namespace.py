"""The namespace of a run: what it enforces, and what the run's pods name in it."""

from collections.abc import Iterator

from pipelines.doctor.apis import operator_arguments
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader, Unreadable

_ENFORCED = "pod-security.kubernetes.io/enforce"
_TEMPLATE_FLAG = "--pytorch-init-container-template-file"
_COUNTED = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
_SHORT = {"cpu": "requests.cpu", "memory": "requests.memory"}  # as a quota may name them


def namespace(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the namespace is there, and what pod security it enforces."""
    name = question.namespace
    found = reader.get(f"/api/v1/namespaces/{name}")
    if found is None:
        yield Finding(
            "namespace", Mark.BAD, f"no {name}", "make it (manifests/base, or a Profile), or pass --namespace"
        )
        return
    level = (found["metadata"].get("labels") or {}).get(_ENFORCED, "privileged")
    text = f"{name} enforces pod security {level}"
    if question.config.cluster.job.lock_memory and level != "privileged":
        advice = (
            f"kubectl label --overwrite namespace {name} {_ENFORCED}=privileged, or set cluster.job.lock_memory=false"
        )
        yield Finding("namespace", Mark.BAD, f"{text}, which refuses pods that lock memory", advice)
    else:
        yield Finding("namespace", Mark.GOOD, text)
    if level == "restricted" and question.uses("pytorchjob") and question.nodes_at_once > 1:
        yield _init_container(reader)


def _init_container(reader: Reader) -> Finding:
    """Tell whether the operator's init container, which workers wait in, is told to be restricted."""
    advice = "give the operator another template: docs/cluster.md, Pod security"
    try:
        arguments = operator_arguments(reader, "training-operator")
    except Unreadable as error:
        text = f"whether the operator's init container passes `restricted` can't be seen: {error}"
        return Finding("namespace", Mark.UNKNOWN, text, advice)
    if any(argument.startswith(_TEMPLATE_FLAG) for argument in arguments):
        return Finding("namespace", Mark.FACT, "the operator has a template of its own for its init container")
    text = "the operator's init container is refused by `restricted`: workers of a second node never start"
    return Finding("namespace", Mark.BAD, text, advice)


def quotas(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell how much of the namespace's quotas is left, and whether pods say what a quota counts."""
    base = f"/api/v1/namespaces/{question.namespace}"
    found = reader.items(f"{base}/resourcequotas")
    if not found:
        yield Finding("quota", Mark.FACT, "none")
        return
    unstated = _unstated(reader.items(f"{base}/limitranges"), question)
    for quota in found:
        name = quota["metadata"]["name"]
        hard = quota["spec"].get("hard") or {}
        used = (quota.get("status") or {}).get("used") or {}
        text = ", ".join(f"{what} {used.get(what, '?')} of {limit}" for what, limit in sorted(hard.items()))
        silent = sorted({_SHORT.get(what, what) for what in hard} & unstated)
        if silent:
            advice = "give the namespace a LimitRange with defaults for it, or set cluster.cpu, cluster.memory and their like"
            yield Finding("quota", Mark.BAD, f"{name} counts {', '.join(silent)}, which not every pod says", advice)
        yield _gpu_quota(name, hard, text, question)


def network(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether a policy keeps the namespace's pods from speaking to others."""
    found = reader.items(f"/apis/networking.k8s.io/v1/namespaces/{question.namespace}/networkpolicies")
    closed = [
        policy["metadata"]["name"]
        for policy in found
        if "Egress" in (policy["spec"].get("policyTypes") or []) and not policy["spec"].get("podSelector")
    ]
    if closed:
        text = f"{', '.join(closed)} says where all pods of this namespace may go"
        advice = "they need DNS, MLflow, the Kubernetes API, KFP's servers, the sources of data, and each other: try with --pods"
        yield Finding("network policies", Mark.UNKNOWN, text, advice)
    else:
        yield Finding("network policies", Mark.GOOD, f"{len(found)}, none keeps all pods from going out")


def secrets(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the Secrets that pods name are there, with their keys; values are not looked at."""
    cluster = question.config.cluster
    wanted = [(one.secret, one.key, one.optional) for one in cluster.secrets]
    wanted += [(name, ".dockerconfigjson", False) for name in cluster.image_pull_secrets]
    for name, key, optional in wanted:
        shown = f"{name}, key {key}"
        try:
            found = reader.get(f"/api/v1/namespaces/{question.namespace}/secrets/{name}")
        except Unreadable as error:
            yield Finding("secret", Mark.UNKNOWN, f"{shown}: can't be read ({error})", f"kubectl get secret {name}")
            continue
        if found is not None and key in (found.get("data") or {}):
            yield Finding("secret", Mark.GOOD, shown)
        elif optional:
            yield Finding("secret", Mark.FACT, f"{shown}: not there, and optional")
        else:
            advice = f"kubectl -n {question.namespace} create secret generic {name} --from-literal={key}=..."
            yield Finding("secret", Mark.BAD, f"{shown}: not there, pods that name it don't start", advice)


def _unstated(ranges: list[Object], question: Question) -> set[str]:
    """Return what a quota may count and not every pod of a run says, after the namespace's defaults."""
    cluster = question.config.cluster
    stated = set()
    if all((cluster.cpu, cluster.gpu_cpu, cluster.launcher_cpu)):
        stated.add("requests.cpu")
    if all((cluster.memory, cluster.gpu_memory, cluster.launcher_memory)):
        stated.add("requests.memory")
    for limits in (one for item in ranges for one in item["spec"]["limits"] if one["type"] == "Container"):
        for resource in limits.get("default") or {}:
            stated |= {f"limits.{resource}", f"requests.{resource}"}
        stated |= {f"requests.{resource}" for resource in limits.get("defaultRequest") or {}}
    return set(_COUNTED) - stated


def _gpu_quota(name: str, hard: dict[str, str], text: str, question: Question) -> Finding:
    limit = hard.get(f"requests.{question.config.cluster.accelerator}")
    wanted = question.gpus_per_pod * question.nodes_at_once
    if limit is not None and limit.isdigit() and int(limit) < wanted:
        return Finding("quota", Mark.BAD, f"{name}: {text}; {wanted} GPUs are asked for", "raise it, or ask for fewer")
    return Finding("quota", Mark.GOOD, f"{name}: {text}")
