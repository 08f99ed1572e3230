"""A runtime that restarts ranks by itself is refused by name, before anything is submitted."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from components.launch.errors import JobRejected
from components.launch.runtime import OURS, check_runtime
from tests.support.kubernetes_schemas import custom_resource_errors
from tests.support.paths import ROOT

Object = dict[str, Any]

# As Kubeflow Trainer 2.3 ships it (manifests/base/runtimes/torch_distributed.yaml).
STOCK = yaml.safe_load("""
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata:
  name: torch-distributed
  labels:
    trainer.kubeflow.org/framework: torch
spec:
  mlPolicy:
    numNodes: 1
    torch: {}
  template:
    spec:
      replicatedJobs:
        - name: node
          template:
            metadata:
              labels:
                trainer.kubeflow.org/trainjob-ancestor-step: trainer
            spec:
              template:
                spec:
                  containers:
                    - name: node
                      image: pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
""")


def ours() -> Object:
    runtime: Object = next(yaml.safe_load_all((ROOT / OURS).read_text()))
    return runtime


def job_of(runtime: Object) -> Object:
    job: Object = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job


def pod_of(runtime: Object) -> Object:
    pod: Object = job_of(runtime)["template"]["spec"]
    return pod


def test_ours_fits_and_is_valid() -> None:
    check_runtime("vlm-torch", ours(), 120)
    assert custom_resource_errors(ours()) == []
    assert custom_resource_errors(STOCK) == []


def test_the_stock_runtime_is_refused_with_all_that_it_does() -> None:
    with pytest.raises(JobRejected) as error:
        check_runtime("torch-distributed", STOCK, 120)
    said = str(error.value)
    assert "The ClusterTrainingRuntime 'torch-distributed' (cluster.job.runtime) does not fit" in said
    for problem in ("restartPolicy OnFailure", "backoffLimit 6", "TerminatingOrFailed", "get 30 s to save", OURS):
        assert problem in said


def test_a_runtime_that_is_not_there_says_how_to_make_it() -> None:
    with pytest.raises(
        JobRejected, match=r"no ClusterTrainingRuntime 'x'.*kubectl apply -f manifests/trainer/runtime.yaml"
    ):
        check_runtime("x", None, 120)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: pod_of(body).update(restartPolicy="OnFailure"), "restartPolicy OnFailure; must be Never"),
        (lambda body: job_of(body).update(backoffLimit=1), "backoffLimit 1; must be 0"),
        (lambda body: job_of(body).pop("podReplacementPolicy"), "podReplacementPolicy TerminatingOrFailed"),
        (lambda body: body["spec"]["template"]["spec"]["failurePolicy"].update(maxRestarts=3), "maxRestarts 3"),
        (
            lambda body: body["spec"]["template"]["spec"]["failurePolicy"].update(
                rules=[{"name": "a", "action": "RestartJobSetAndIgnoreMaxRestarts"}]
            ),
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
        (lambda body: pod_of(body).update(terminationGracePeriodSeconds=60), "get 60 s to save"),
        (lambda body: body["spec"].update(mlPolicy={"numNodes": 1}), "has no torch"),
        (lambda body: pod_of(body)["containers"][0].update(name="main"), "no container 'node'"),
        (
            lambda body: body["spec"]["template"]["spec"]["replicatedJobs"][0].update(name="main"),
            "no replicated job 'node'",
        ),
    ],
)
def test_each_way_to_restart_is_found(change: Callable[[Object], Any], said: str) -> None:
    runtime = copy.deepcopy(ours())
    change(runtime)
    with pytest.raises(JobRejected) as error:
        check_runtime("vlm-torch", runtime, 120)
    assert said in str(error.value)
