"""Cores that a process may use: by affinity, and by the limits of control groups of both versions."""

import os
from pathlib import Path

import pytest

from components import cores

MACHINE_V1 = "5:memory:/pod\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/pod\n"


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A mounted hierarchy of which the process is in `pod/container`."""
    (tmp_path / "groups/pod/container").mkdir(parents=True)
    (tmp_path / "groups/cpu/pod/container").mkdir(parents=True)
    return tmp_path / "groups"


def _limit(mounts: Path, own: str) -> float | None:
    path = mounts.parent / "cgroup"
    path.write_text(own)
    return cores.cgroup_limit(mounts, path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"pod/container": "max 100000"}, None),
        ({"pod/container": "250000 100000"}, 2.5),
        ({"pod/container": "max 100000", "pod": "50000 100000"}, 0.5),
        ({"pod/container": "200000 100000", "pod": "400000 100000"}, 2.0),
        ({"": "300000 100000"}, 3.0),
        ({"pod/container": "nonsense"}, None),
    ],
)
def test_version_2(mounts: Path, files: dict[str, str], expected: float | None) -> None:
    for group, content in files.items():
        (mounts / group / "cpu.max").write_text(content + "\n")
    assert _limit(mounts, "0::/pod/container\n") == expected


def test_path_of_the_machine_that_is_not_seen_in_the_container(mounts: Path) -> None:
    (mounts / "cpu.max").write_text("150000 100000\n")
    assert _limit(mounts, "0::/kubepods/burstable/pod1/abc\n") == 1.5
    assert _limit(mounts, "0::/../../other\n") == 1.5


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"pod/container": (-1, 100_000)}, None),
        ({"pod/container": (150_000, 100_000)}, 1.5),
        ({"pod/container": (-1, 100_000), "pod": (100_000, 50_000)}, 2.0),
    ],
)
def test_version_1(mounts: Path, files: dict[str, tuple[int, int]], expected: float | None) -> None:
    for group, (quota, period) in files.items():
        (mounts / "cpu" / group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (mounts / "cpu" / group / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert _limit(mounts, MACHINE_V1) == expected


def test_machine_without_control_groups(tmp_path: Path) -> None:
    assert cores.cgroup_limit(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 4), (0.25, 1), (1.0, 1), (1.2, 2), (2.0, 2), (3.999, 4), (16.0, 4)]
)
def test_the_smaller_of_affinity_and_limit_rounded_up(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 5}, raising=False)
    monkeypatch.setattr(cores, "cgroup_limit", lambda: limit)
    assert cores.available_cores() == expected
