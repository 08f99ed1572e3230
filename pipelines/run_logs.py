"""What the stages of a run print: of this machine's runs from their folder, of a cluster's from its pods or from KFP."""

import time
from collections.abc import Iterator

import urllib3
from kubernetes.client.exceptions import ApiException

from components.errors import InputError
from components.runs.folder import PACKAGE_NAME, RunFolder
from components.runs.kfp import PassingError
from components.runs.kfp_run import OVER
from components.runs.kfp_tasks import Task
from components.yaml_text import parse_documents
from pipelines.cluster_pods import RunPods
from pipelines.cluster_stages import plan, stage_pods
from pipelines.cluster_view import ClusterRun
from pipelines.log_lines import file_lines, lines_of_tasks

_POLL_S = 5.0
_FIRST = ("failed", "running", "queued", "interrupted")  # what people want to read first
_RANK_LOGS = "launch/logs/**/std*.log"  # of a training's stage folder; torchrun's folders are <run>/attempt_<n>/<rank>


def local_lines(run: RunFolder, stage: str, follow: bool) -> Iterator[str]:
    """Yield what a run of a workspace printed.

    Args:
        run: The run's folder.
        stage: Stage name; empty for all of them.
        follow: Wait for what comes, until the run is over.

    Raises:
        InputError: There is no such stage, or its log is not here.
    """
    if not run.log.is_file():
        yield from _rank_lines(run, stage)
        return
    lines = file_lines(run.log, lambda: follow and run.state() == "running")
    if not stage:
        yield from lines
        return
    specification = parse_documents((run.path / PACKAGE_NAME).read_text(encoding="utf-8"))[0]
    planned = plan(specification)
    _check_stage(stage, planned.stages)
    yield from lines_of_tasks(lines, {task.component for task in planned.tasks if task.stage == stage})


def cluster_lines(run: ClusterRun, pods: RunPods | None, stage: str, follow: bool) -> Iterator[str]:
    """Yield what a stage of a cluster's run printed, its partitions one after the other.

    Args:
        run: The run.
        pods: Its pods; None where no cluster is reached from here.
        stage: Stage name; empty for the one that failed, else one that runs, else the last one.
        follow: Wait for what comes, until the stage is over.

    Raises:
        InputError: There is no such stage, it has no pod yet, or its log is nowhere.
        StageError: KFP does not answer.
    """
    rows = run.look().rows
    if stage:
        _check_stage(stage, run.plan.stages)
    else:
        stage = next((row.stage for state in _FIRST for row in rows if row.state == state), "")
        stage = stage or next((row.stage for row in reversed(rows) if row.state in ("done", "reused")), "open_run")
    while not (found := stage_pods(run.plan, run.tasks, stage)):
        if not follow or run.state in OVER:
            state = next((row.state for row in rows if row.stage == stage), run.state)
            raise InputError(f"{stage} has no pod: it is {state}. `vlm status {run.run_id}` shows the stages.")
        time.sleep(_POLL_S)
        rows = run.look().rows
    for task in found:
        if len(found) > 1:
            yield f"== {stage}, {'.'.join(map(str, task.turn)) or task.path[-1]} =="
        yield from _lines_of_task(run, pods, task, follow)


def _lines_of_task(run: ClusterRun, pods: RunPods | None, task: Task, follow: bool) -> Iterator[str]:
    """Yield what the last try of a task printed: from its pod, else as KFP has it."""
    pod, node = task.pods[-1], task.nodes[-1]
    namespace = pods.namespace_of(pod) if pods is not None else None
    if pods is not None and namespace is not None:
        try:
            yield from pods.log(pod, namespace, follow)
        except (ApiException, urllib3.exceptions.HTTPError, OSError):
            why = pods.reasons()[0].get(pod)
            if why is None:
                raise InputError(
                    f"The log of the pod {pod} broke off: kubectl -n {namespace} logs {pod} -c main"
                ) from None
            raise InputError(f"The pod {pod} does not run yet: {why}") from None
        return
    printed = 0
    while True:
        over = not follow or _is_over(run, task)
        text = run.runs.log(run.run_id, pod, node)
        if text is None and over:
            raise InputError(_where_to_look(run, pod))
        lines = (text or "").splitlines(keepends=True)
        whole = len(lines) - bool(lines and not over and not lines[-1].endswith("\n"))
        yield from (line.rstrip("\r\n") for line in lines[printed:whole])
        printed = max(printed, whole)
        if over:
            return
        time.sleep(_POLL_S)


def _is_over(run: ClusterRun, task: Task) -> bool:
    """Tell whether a task prints no more, asking KFP anew; when it does not answer, it is asked again."""
    try:
        run.load()
    except PassingError:
        return False
    now = next((one for one in run.tasks if (one.path, one.turn) == (task.path, task.turn)), None)
    return run.state in OVER or now is None or now.ended is not None or now.nodes[-1:] != task.nodes[-1:]


def _where_to_look(run: ClusterRun, pod: str) -> str:
    return (
        f"The pod {pod} is not reached from here, or gone, and KFP has no log of it. Look with kubectl -n NAMESPACE logs {pod} -c main; "
        f"in the bucket of KFP's object store, where Argo archives logs, as {pod}/main.log; or, where the run's workspace is mounted, "
        f"with vlm logs {run.run_id} STAGE --workspace DIR."
    )


def _rank_lines(run: RunFolder, stage: str) -> Iterator[str]:
    """Yield what the ranks of a training left in its folder; a run of a cluster has no other log there."""
    rows = [row for row in run.stages() if row.folder is not None and row.stage == (stage or row.stage)]
    logs = [path for row in rows if row.folder is not None for path in sorted(row.folder.glob(_RANK_LOGS))]
    if not logs:
        raise InputError(
            f"{run.path} has no {run.log.name}, and {stage or 'no stage'} no logs of ranks: the run was a cluster's. "
            f"Read its pods' logs: vlm logs {run.run_id} --endpoint URL"
        )
    for path in logs:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            yield f"[rank {path.parent.name}] {line}"


def _check_stage(stage: str, known: tuple[str, ...]) -> None:
    if stage not in known:
        raise InputError(f"There is no stage {stage!r}. The run's stages are {', '.join(known)}.")
