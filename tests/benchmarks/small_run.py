"""Processor time of the whole DAG in a small version, where starting processes is most of it.

    python -m tests.benchmarks.small_run

The wall time depends on what else the machine does; processor seconds, of all processes of the run, hardly do.
"""

import resource
import subprocess
import sys
import tempfile
import time

from tests.support.small_chain import SMALL_RUN


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vlm-small-run-") as workspace:
        print("| run | processor s | of them system | wall s |\n|---|---|---|---|")
        for name in ("first", "again, all reused"):
            print(f"| {name} | {measure(workspace)} |", flush=True)


def measure(workspace: str) -> str:
    """Run the DAG; return processor time, system time and wall time in seconds, as cells of a table."""
    command = [sys.executable, "-m", "pipelines.cli", "run", "--preset", "laptop", "--workspace", workspace]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [*command, *(argument for override in SMALL_RUN for argument in ("--set", override))],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return f"{user + system:.0f} | {system:.0f} | {wall:.0f}"


if __name__ == "__main__":
    main()
