"""Child process of `vlm run`: executes a compiled pipeline with KFP's local runner, in processes or in containers."""

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from components.runs.folder import KFP_WORKSPACE, PACKAGE_NAME, RUN_FOLDER_VARIABLE, RunFolder
from pipelines.fork_server import fork_server, may_fork

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

_PARENT_POLL_S = 1.0
_IMPORTED = ("kfp.dsl.executor", "components.stage.runner")
IMPORTED_BY_TRAINING = (
    "torch",
    "megatron.core",
    "torch.distributed.run",
    "components.model.checkpoint.sharded",
    "components.training.trainer",
    "components.generate.generation",
    "transformers",
    "torch._dynamo",
    "transformers.modeling_utils",
)
"""What the tasks of a DAG that trains or asks a model import, and their ranks, beside what any task does.

The last two are no names that a task writes: torch imports its compiler as the first optimizer steps or a layer is made without memory,
and a model of transformers brings the other. Nine and four processes would each do so (tests/benchmarks/RESULTS.md).
"""


def main() -> int:
    """Execute `<run folder>/pipeline.yaml`; the arguments are the run folder and the runner, "process" or "docker".

    Returns:
        0 when every task succeeded, else 1.
    """
    folder, runner = Path(sys.argv[1]), sys.argv[2]
    threading.Thread(target=_end_with_parent, args=(os.getppid(), runner), daemon=True).start()
    # The runner warns about every image whose name has no "python" in it.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
    warnings.filterwarnings("ignore", category=FutureWarning)
    with _without_client():
        import kfp  # noqa: F401
    from kfp import components, local
    from kfp.local import logging_utils

    pipeline = components.load_component_from_file(str(folder / PACKAGE_NAME))
    if runner == "docker":
        from pipelines.docker_runner import use_docker

        use_docker(RunFolder(folder.parent.parent, folder.name))
    else:
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "kfp"),
            workspace_root=str(folder / "kfp" / KFP_WORKSPACE),
        )
    server: AbstractContextManager[Mapping[str, str]] = nullcontext({})
    if runner == "process" and may_fork():
        server = fork_server(folder / "kfp" / "bin", _imported(pipeline))
    try:
        with server as variables, _left_alone(), logging_utils.local_logger_context(), logging_utils.indented_print():
            # Every task would set up log and `print` of the whole process, and tasks side by side undo it in any order.
            logging_utils.local_logger_context = logging_utils.indented_print = nullcontext
            os.environ.update(variables)
            pipeline()
    except RuntimeError as error:  # how KFP reports a failed task
        print(error, flush=True)
        return 1
    return 0


def _imported(pipeline: "BaseComponent") -> list[str]:
    """Return what is worth importing once for all tasks of a pipeline, which may be none of ours."""
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    models = {"exec-pretrain", "exec-generate"} & executors.keys()
    return [*_IMPORTED, *(IMPORTED_BY_TRAINING if models else ())]


@contextmanager
def _without_client() -> Iterator[None]:
    """Let KFP leave out its client, with a thousand modules of its API and Kubernetes', as it does where a task runs."""
    os.environ["_KFP_RUNTIME"] = "true"
    try:
        yield
    finally:
        del os.environ["_KFP_RUNTIME"]


@contextmanager
def _left_alone() -> Iterator[None]:
    """Let KFP leave the "python3" of a command as it is.

    It puts `sys.executable` in the place of each, paths of artifacts included. Left as it is, the shell finds the right
    one by its PATH, and folders may have "python3" and blanks in their names.
    """
    executable, sys.executable = sys.executable, "python3"
    try:
        yield
    finally:
        sys.executable = executable


def _end_with_parent(parent: int, runner: str) -> None:
    """End this process, its descendants and its containers when `vlm run` was killed without a chance to do so itself."""
    from pipelines.processes import end_processes

    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    end_processes((RUN_FOLDER_VARIABLE, os.environ[RUN_FOLDER_VARIABLE]))
    if runner == "docker":
        from pipelines.docker_runner import end_containers

        end_containers(os.environ[RUN_FOLDER_VARIABLE])
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
