"""A trial on a real cluster: what the cluster has, steps that are timed and told in one table, and an overlay with the cluster's images."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipelines.doctor.finding import Finding, Mark
from tests.support.paths import ROOT

T = TypeVar("T")
_POLL_S = 2.0


@dataclass(frozen=True)
class Surroundings:
    """What a cluster has beside Kubernetes.

    Attributes:
        kfp: Kubeflow Pipelines' version, empty without.
        operators: Kinds of training jobs whose operator runs, as launch.backend names them.
    """

    kfp: str
    operators: tuple[str, ...]

    @property
    def words(self) -> str:
        """What was found, for the table."""
        return (
            f"Kubeflow Pipelines {self.kfp or '(none)'}; operators of {', '.join(self.operators) or 'no training jobs'}"
        )


_OPERATORS = {"training-operator": "pytorchjob", "trainer-controller-manager": "trainjob"}


def surroundings(deployments: Sequence[dict[str, Any]]) -> Surroundings:
    """Return what runs in a cluster, told from its deployments' images."""
    kfp, operators = "", []
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            name, _, tag = container["image"].partition("@")[0].rsplit("/", 1)[-1].partition(":")
            if name == "kfp-api-server":
                kfp = tag or "of unknown version"
            elif name in _OPERATORS:
                operators.append(_OPERATORS[name])
    return Surroundings(kfp, tuple(sorted(operators)))


class Trial:
    """Steps of a trial, and what came of each.

    Attributes:
        findings: A row for every step so far.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def note(self, subject: str, mark: Mark, found: str) -> None:
        """Add a row for something that is no step."""
        self.findings.append(Finding(subject, mark, found))

    @contextmanager
    def step(self, subject: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is told behind it, and an error that ends it likewise."""
        started, said = time.monotonic(), list[str]()
        try:
            yield said
        except BaseException as error:
            self._end(subject, Mark.BAD, started, [*said, str(error) or repr(error)])
            raise
        self._end(subject, Mark.GOOD, started, said)

    def _end(self, subject: str, mark: Mark, started: float, said: list[str]) -> None:
        self.note(subject, mark, "; ".join([f"{time.monotonic() - started:.0f} s", *said]))


def wait_until(what: str, look: Callable[[], T | None], patience_s: float) -> T:
    """Return what a look gives as soon as it gives something.

    Raises:
        TimeoutError: It did not in time; the message names what was waited for.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience_s:.0f} s")
        time.sleep(_POLL_S)


def write_overlay(folder: Path, image: str) -> Path:
    """Write a kustomization of overlays/laptop with the CPU image that a cluster can pull, and return its folder."""
    name, _, tag = image.rpartition(":")
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(ROOT / "manifests" / "overlays" / "laptop", folder.resolve())],
        "images": [{"name": "vlm-pipelines/cpu", "newName": name, "newTag": tag}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def trial_settings(image: str, backend: str, *more: str) -> list[str]:
    """Return the words by which `vlm` takes the small preset on a cluster: each training on two nodes of one process."""
    values = ["cluster.pvc=vlm-workspace", "workspace=/workspace", "tracking.uri=http://mlflow:5000"]
    values.append(f"cluster.cpu_image={image}")
    for stage in ("pretrain", "sft"):
        values += [f"{stage}.launch.backend={backend}", f"{stage}.launch.nodes=2"]
        values += [f"{stage}.launch.processes_per_node=1", f"{stage}.launch.tensor_parallel=1"]
    return ["--preset", "laptop", *(word for value in [*values, *more] for word in ("--set", value))]


def pod_security_warnings(said: str) -> list[str]:
    """Return what `kubectl label --dry-run=server namespace ...enforce=restricted` warns of, pods of other projects left out.

    Args:
        said: What kubectl wrote to stderr: a line for each kind of violation, as "Warning: POD (and 2 other pods): REASONS".
    """
    lines = [line.removeprefix("Warning: ") for line in said.splitlines() if line.startswith("Warning: ")]
    return [line for line in lines if line.startswith(("vlm-", "mlflow-"))]
