"""How many CPU cores this process may keep busy."""

import os
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the number of cores that this process may use: those it may run on, within the CPU limit of its container.

    A limit that is no whole number is rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_limit()
    return allowed if limit is None else max(1, min(allowed, -int(-limit // 1)))


def cgroup_limit(mounts: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """Return the cores' worth of time that control groups allow this process, the least of its group and those above.

    Version 2 has quota and period, in microseconds, in `cpu.max`; version 1 has them in two files below `cpu`
    (https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).

    Args:
        mounts: Where the control groups are mounted.
        own: The file that names this process's groups.

    Returns:
        None if there is no limit, or none that can be read.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            hierarchy, read = mounts, _limit_v2
        elif "cpu" in controllers.split(","):
            hierarchy, read = mounts / "cpu", _limit_v1
        else:
            continue
        # A container may see its own group as the root, while the path is still that of the machine: every level counts.
        relative = PurePosixPath(path.lstrip("/"))
        limits += [read(hierarchy / level) for level in (relative, *relative.parents)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _limit_v1(group: Path) -> float | None:
    try:
        quota, period = (
            int((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
