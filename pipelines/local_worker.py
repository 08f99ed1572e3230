"""Child process of `vlm run`: executes a compiled pipeline with KFP's local runner, in processes or in containers."""

import os
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from components.runs.folder import KFP_WORKSPACE, PACKAGE_NAME, RUN_ID_VARIABLE

_PARENT_POLL_S = 1.0


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
    # KFP puts this in place of every "python3" in a task's command, paths of artifacts included. Left as it is, the
    # shell finds this environment's Python by its PATH, and folders may have "python3" and blanks in their names.
    sys.executable = "python3"
    from kfp import components, local
    from kfp.local import logging_utils

    if runner == "docker":
        from pipelines.docker_runner import use_docker

        use_docker(folder.parent.parent, folder.name, folder / "kfp")
    else:
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "kfp"),
            workspace_root=str(folder / "kfp" / KFP_WORKSPACE),
        )
    pipeline = components.load_component_from_file(str(folder / PACKAGE_NAME))
    try:
        with logging_utils.local_logger_context(), logging_utils.indented_print():
            # Every task would set up log and `print` of the whole process, and tasks side by side undo it in any order.
            logging_utils.local_logger_context = logging_utils.indented_print = nullcontext
            pipeline()
    except RuntimeError as error:  # how KFP reports a failed task
        print(error, flush=True)
        return 1
    return 0


def _end_with_parent(parent: int, runner: str) -> None:
    """End this process, its descendants and its containers when `vlm run` was killed without a chance to do so itself."""
    from pipelines.processes import end_processes

    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    end_processes((RUN_ID_VARIABLE, os.environ[RUN_ID_VARIABLE]))
    if runner == "docker":
        from pipelines.docker_runner import end_containers

        end_containers(os.environ[RUN_ID_VARIABLE])
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
