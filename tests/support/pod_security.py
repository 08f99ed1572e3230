"""Kubernetes' Pod Security Standard `restricted`, as its admission controller checks it.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, the controls of `baseline` and `restricted` for Linux pods.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_APPARMOR = {None, "RuntimeDefault", "Localhost"}
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip


def violations(spec: Object) -> list[str]:
    """Return what the standard `restricted` refuses in a pod's spec, each with its field."""
    return [*_pod(spec), *(found for container in _containers(spec) for found in _container(container, spec))]


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod's spec within an object: of a Pod, a Deployment, a job, a runtime, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for item in value.values():
            yield from pod_specs(item)
    elif isinstance(value, list):
        for item in value:
            yield from pod_specs(item)


def _containers(spec: Object) -> Iterator[Object]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(kind) or []


def _pod(spec: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is true"
    for volume in spec.get("volumes") or []:
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is of kind {kind}"
    context = spec.get("securityContext") or {}
    yield from _shared(context, "pod")
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"


def _container(container: Object, spec: Object) -> Iterator[str]:
    name = container["name"]
    context = container.get("securityContext") or {}
    pod = spec.get("securityContext") or {}
    yield from _shared(context, name)
    if context.get("privileged"):
        yield f"{name} is privileged"
    if context.get("procMount") not in (None, "", "Default"):
        yield f"{name} has procMount {context['procMount']}"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} does not set allowPrivilegeEscalation to false"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{name} does not drop ALL capabilities"
    for added in set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds the capability {added}"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name} does not set runAsNonRoot to true"
    if (context.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield f"{name} has no seccompProfile"
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"{name} takes the host's port {port['hostPort']}"
    yield from _probes(container)


def _probes(container: Object) -> Iterator[str]:
    """Hosts of probes and hooks must be the pod's own (since Kubernetes 1.34)."""
    hooks = container.get("lifecycle") or {}
    probes = [container.get(f"{kind}Probe") for kind in ("liveness", "readiness", "startup")]
    for probe in [*probes, hooks.get("postStart"), hooks.get("preStop")]:
        for kind in ("httpGet", "tcpSocket"):
            if ((probe or {}).get(kind) or {}).get("host"):
                yield f"{container['name']} probes another host"


def _shared(context: Object, name: str) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"{name} runs as root"
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield f"{name} is not confined by seccomp"
    if (context.get("appArmorProfile") or {}).get("type") not in _APPARMOR:
        yield f"{name} is not confined by AppArmor"
    linux = context.get("seLinuxOptions") or {}
    if linux.get("type") not in _SELINUX_TYPES or linux.get("user") or linux.get("role"):
        yield f"{name} has SELinux options of its own"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{name} is a host process"
