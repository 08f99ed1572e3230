"""Ends everything of a cluster run: what KFP started, the training jobs, their pods, its run in MLflow; says line by line what it did.

Whatever can't be reached from here is told, with the command that ends it, and does not keep the rest from being ended.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.errors import InputError, VlmError

if TYPE_CHECKING:
    from components.runs.kfp import KfpRuns
    from pipelines.cluster_objects import Found, RunObjects

_SUCCEEDED = "succeeded"
_POLL_S = 2.0
_ENDING_S = 120.0  # pods have half a minute to end, and the run's last task follows them
_GONE_S = 60.0


class ClusterCancel:
    """One cancelling of one run.

    Args:
        run_id: KFP's id of the run.
        say: Is given every line for the person.
    """

    def __init__(self, run_id: str, say: Callable[[str], None]) -> None:
        self._run_id = run_id
        self._say = say
        self._stopped = False
        self._succeeded = False
        self._left = False

    def run(self, runs: "KfpRuns | None", objects: "RunObjects | None", tracking_uri: str) -> bool:
        """End everything.

        Args:
            runs: The runs of KFP; None where it can't be reached.
            objects: What the run has in Kubernetes; None where there is no configuration for it.
            tracking_uri: MLflow's tracking URI; empty where it is not known.

        Returns:
            Whether nothing of the run is left, as far as it can be known from here.
        """
        if runs is None:
            self._leave("KFP", "can't be asked", "its page in KFP's UI, or vlm cancel where KFP answers")
        else:
            self._end_in_kfp(runs)
        if objects is None:
            self._leave("pods", "there is no configuration for Kubernetes here", f"kubectl delete {self._pods_named()}")
            self._leave("jobs", "likewise", f"kubectl delete pytorchjobs,trainjobs {self._jobs_named()}")
        else:
            self._end_pods(objects)
            self._end_jobs(objects)
        self._end_in_mlflow(tracking_uri)
        return not self._left

    # KFP first: what it has started would start what is ended below again.

    def _end_in_kfp(self, runs: "KfpRuns") -> None:
        from components.runs.kfp_run import OVER

        with self._reported("KFP", runs.link(self._run_id)):
            state = runs.get(self._run_id).state
            if state in OVER:
                self._succeeded = state == _SUCCEEDED
                self._tell("KFP", f"the run is over already: {state}")
                return
            runs.cancel(self._run_id)
            self._stopped = True
            self._tell("KFP", "the run was told to end; its pods have their time to")
            deadline = time.monotonic() + _ENDING_S
            while (state := runs.get(self._run_id).state) not in OVER:
                if time.monotonic() > deadline:
                    self._tell("KFP", f"the run has not ended after {_ENDING_S:.0f} s")
                    return
                time.sleep(_POLL_S)
            self._succeeded = state == _SUCCEEDED
            self._tell("KFP", "the run succeeded before it could be ended" if self._succeeded else "the run has ended")

    def _end_pods(self, objects: "RunObjects") -> None:
        with self._reported("pods", f"kubectl delete {self._pods_named()}"):
            if not objects.pods():
                self._tell("pods", f"none is left{objects.scope}")
                return
            for workflow in objects.workflows():
                objects.stop_workflow(workflow)
                self._tell("pods", f"{workflow} stopped, so that it makes no new ones")
            self._delete("pods", objects.pods(), objects.delete_pod)
            self._wait("pods", objects.pods)

    def _end_jobs(self, objects: "RunObjects") -> None:
        with self._reported("jobs", f"kubectl delete pytorchjobs,trainjobs {self._jobs_named()}"):
            jobs = objects.jobs()
            if not jobs:
                self._tell("jobs", f"none is left{objects.scope}")
                return
            self._delete("jobs", jobs, objects.delete_job)
            self._wait("jobs", objects.jobs)

    def _delete(self, what: str, found: "list[Found]", delete: "Callable[[Found], None]") -> None:
        for one in found:
            if not one.going:
                delete(one)
            self._tell(what, f"{one} {'is being deleted' if one.going else 'deleted'}")

    def _wait(self, what: str, left: "Callable[[], list[Found]]") -> None:
        deadline = time.monotonic() + _GONE_S
        while found := left():
            if time.monotonic() > deadline:
                names = ", ".join(map(str, found))
                if all(one.going for one in found):
                    self._tell(what, f"{names} on the way out: pods have their time to save")
                else:
                    self._leave(what, f"{names} still there after {_GONE_S:.0f} s", "vlm cancel again")
                return
            time.sleep(_POLL_S)

    def _end_in_mlflow(self, uri: str) -> None:
        if not uri:
            self._tell(
                "MLflow", "is closed by the run's last task; name it with --tracking-uri to have it closed in any case"
            )
            return
        from components.runs.mlflow import find_tracked_run
        from components.tracking.client import as_stage_error, connect
        from components.tracking.pipeline_run import close_pipeline_run

        with self._reported("MLflow", f"vlm cancel {self._run_id} with an MLflow that answers (--tracking-uri)"):
            client = connect(uri)
            with as_stage_error(uri):
                run = find_tracked_run(client, self._run_id)
            if run is None or run.run_id != self._run_id:
                self._tell("MLflow", f"has no run of it at {uri}")
                return
            status = str(run.entity.info.status)
            # A last task that KFP did not tell of the cancelling has called it a failure.
            if status == "RUNNING" or (self._stopped and not self._succeeded and status == "FAILED"):
                close_pipeline_run(uri, run.mlflow_run_id, "KILLED")
                status = "KILLED"
            self._tell("MLflow", f"the run {run.mlflow_run_id} is {status}")

    # What is said

    def _pods_named(self) -> str:
        from pipelines.cluster_objects import pod_selector

        return f"pods -A -l {pod_selector(self._run_id)}"

    def _jobs_named(self) -> str:
        from pipelines.cluster_objects import job_selector

        return f"-A -l {job_selector(self._run_id)}"

    @contextmanager
    def _reported(self, what: str, instead: str) -> Iterator[None]:
        """Turn an error into a line, with what else ends this part."""
        try:
            yield
        except InputError:  # there is no such run
            raise
        except VlmError as error:
            self._leave(what, str(error), instead)

    def _leave(self, what: str, why: str, instead: str) -> None:
        self._left = True
        self._tell(what, f"NOT ENDED: {why.rstrip('.')}. To end it: {instead}")

    def _tell(self, what: str, text: Any) -> None:
        self._say(f"{what:<8} {text}")
