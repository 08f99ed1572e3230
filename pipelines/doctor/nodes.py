"""The nodes: how many, their GPUs and drivers, their clocks."""

import datetime
from collections import Counter
from collections.abc import Iterator

from components.launch.config import ClusterConfig, Toleration
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Object, Reader

_DRIVER = 580  # CUDA 13's; the GPU image is built with it
# GPU feature discovery's names: today's, and those before.
_DRIVER_LABELS = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
_PRODUCT_LABEL = "nvidia.com/gpu.product"
_KUBELET_RENEWS_S = 10.0
_TOLERATED_S = 5.0


def ready_nodes(reader: Reader) -> list[Object]:
    """Return the nodes that take pods.

    Raises:
        Unreadable: They may not be seen.
    """
    return [node for node in reader.items("/api/v1/nodes") if _is_ready(node)]


def _is_ready(node: Object) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions") or []}
    return conditions.get("Ready") == "True" and not node["spec"].get("unschedulable")


def count(reader: Reader, _question: Question) -> Iterator[Finding]:
    """Tell how many nodes take pods."""
    nodes = ready_nodes(reader)
    kinds = Counter(
        f"{node['status']['nodeInfo']['kubeletVersion']} {node['status']['nodeInfo']['architecture']}" for node in nodes
    )
    text = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    if nodes:
        yield Finding("nodes", Mark.GOOD, text)
    else:
        yield Finding("nodes", Mark.BAD, "none is ready", "kubectl get nodes says why")


def gpus(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether enough nodes have the GPUs that are asked for, and whose driver is new enough."""
    cluster, wanted = question.config.cluster, question.gpus_per_pod
    having = [node for node in ready_nodes(reader) if _gpus(node, cluster.accelerator)]
    kinds = Counter(f"{_gpus(node, cluster.accelerator)} {_product(node)}" for node in having)
    text = ", ".join(f"{number} nodes with {kind}" for kind, number in kinds.items()) or "none"
    if not wanted:
        yield Finding("GPUs", Mark.FACT, f"{text}; none asked for (cluster.gpus is 0)")
        return
    fitting = [node for node in having if _gpus(node, cluster.accelerator) >= wanted and _takes(node, cluster)]
    if len(fitting) < question.nodes_at_once:
        asked = f"{question.nodes_at_once} nodes with {wanted} {cluster.accelerator} each"
        advice = (
            "compare cluster.node_selector and cluster.tolerations with the nodes' labels and taints, or lower launch.nodes "
            "or processes_per_node; an autoscaler may bring nodes that are not there yet"
        )
        yield Finding("GPUs", Mark.BAD, f"{text}; {len(fitting)} fit, {asked} are asked for", advice)
    else:
        yield Finding("GPUs", Mark.GOOD, f"{text}; {len(fitting)} nodes fit")
    yield from _drivers(fitting or having)


def _drivers(nodes: list[Object]) -> Iterator[Finding]:
    if not nodes:
        return
    drivers = Counter(_driver(node) for node in nodes)
    if None in drivers:
        advice = f"it must be R{_DRIVER} or newer; `nvidia-smi` in a pod with a GPU tells it"
        yield Finding("GPU driver", Mark.UNKNOWN, f"{drivers[None]} nodes don't say theirs by a label", advice)
    told = {driver: number for driver, number in drivers.items() if driver is not None}
    old = [driver for driver in told if driver < _DRIVER]
    text = ", ".join(f"R{driver} on {number} nodes" for driver, number in sorted(told.items()))
    if old:
        yield Finding("GPU driver", Mark.BAD, text, f"the GPU image has CUDA 13, which needs R{_DRIVER} or newer")
    elif told:
        yield Finding("GPU driver", Mark.GOOD, text)


def clocks(reader: Reader, _question: Question) -> Iterator[Finding]:
    """Compare the API server's clock with this machine's, and with the nodes', as their leases tell them.

    A kubelet renews its lease every ten seconds, and writes its own clock's time into it.
    """
    clock = reader.clock()
    apart = (
        f"the API server's is {abs(clock.ahead_s):.0f} s {'ahead of' if clock.ahead_s > 0 else 'behind'} this machine's"
    )
    good = abs(clock.ahead_s) <= _TOLERATED_S
    yield Finding("clock", Mark.GOOD if good else Mark.BAD, apart, "" if good else "synchronise this machine's (NTP)")
    leases = reader.items("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
    wrong = []
    for lease in leases:
        age = clock.server - _seconds(lease["spec"]["renewTime"])
        if not -_TOLERATED_S <= age <= _KUBELET_RENEWS_S + 2 * _TOLERATED_S:
            wrong.append(f"{lease['metadata']['name']} ({-age:+.0f} s)")
    if wrong:
        advice = (
            "synchronise these nodes (NTP), or see whether they live: tokens and certificates of S3 and registries fail"
        )
        yield Finding("clock", Mark.BAD, f"not with the API server's: {', '.join(wrong)}", advice)
    elif leases:
        yield Finding("clock", Mark.GOOD, f"{len(leases)} nodes go with the API server's")


def _gpus(node: Object, accelerator: str) -> int:
    return int((node["status"].get("allocatable") or {}).get(accelerator, 0))


def _product(node: Object) -> str:
    return str((node["metadata"].get("labels") or {}).get(_PRODUCT_LABEL, "GPUs"))


def _driver(node: Object) -> int | None:
    labels = node["metadata"].get("labels") or {}
    found = next((labels[name] for name in _DRIVER_LABELS if name in labels), None)
    return int(found) if found is not None and found.isdigit() else None


def _takes(node: Object, cluster: ClusterConfig) -> bool:
    """Tell whether a node's labels and taints let training pods in; affinity is the scheduler's to judge."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(name) != value for name, value in cluster.node_selector.items()):
        return False
    hard = [taint for taint in node["spec"].get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return all(any(_tolerates(one, taint) for one in cluster.tolerations) for taint in hard)


def _tolerates(toleration: Toleration, taint: Object) -> bool:
    if toleration.effect and toleration.effect != taint["effect"]:
        return False
    if toleration.key and toleration.key != taint["key"]:
        return False
    return toleration.operator == "Exists" or toleration.value == taint.get("value", "")


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
