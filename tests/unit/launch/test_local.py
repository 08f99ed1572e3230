"""The local launcher with a real torchrun."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from components.errors import ConfigurationError, StageError
from components.launch.config import ClusterConfig, LaunchConfig
from components.launch.errors import ClusterFailure
from components.launch.job import TrainingJob
from components.launch.local import run_local
from components.launch.run import run_job
from tests.support.paths import ROOT
from tests.support.processes import is_over
from tests.support.waiting import PATIENCE_S, wait_for


def _module(folder: Path, code: str) -> dict[str, str]:
    """Write a module `job_under_test` and return the environment that finds it."""
    (folder / "job_under_test.py").write_text(textwrap.dedent(code))
    return {"PYTHONPATH": str(folder)}


def _job(tmp_path: Path, code: str, **launch: int) -> TrainingJob:
    return TrainingJob(
        name="test",
        module="job_under_test",
        arguments=["argument"],
        log_folder=tmp_path / "logs",
        config=LaunchConfig(**{"processes_per_node": 2, **launch}),
        environment=_module(tmp_path, code),
    )


def test_every_rank_runs_with_its_environment(tmp_path: Path) -> None:
    code = f"""
        import os, pathlib, sys
        pathlib.Path({str(tmp_path)!r}, f"rank{{os.environ['RANK']}}").write_text(" ".join([os.environ["WORLD_SIZE"], *sys.argv[1:]]))
    """
    run_local(_job(tmp_path, code))
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2 argument", "2 argument"]


def test_several_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"launch\.nodes"):
        run_local(_job(tmp_path, "", nodes=2))


def test_launcher_that_is_told_twice_to_stop_lets_the_ranks_save_and_leaves_no_process(tmp_path: Path) -> None:
    rank = """
        import os, pathlib, signal, sys, time
        def save(*_):
            pathlib.Path(os.environ["PIDS"]).with_name("asked").touch()
            time.sleep(1)
            pathlib.Path(os.environ["PIDS"]).with_name("saved" + os.environ["RANK"]).touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path(os.environ["PIDS"], str(os.getpid())).touch()
        time.sleep(120)
    """
    environment = _module(tmp_path, rank)
    pids = tmp_path / "pids"
    pids.mkdir()
    code = f"""
        from pathlib import Path
        from components.launch.config import LaunchConfig
        from components.launch.job import TrainingJob
        from components.launch.local import run_local
        run_local(TrainingJob("test", "job_under_test", [], Path({str(tmp_path / "logs")!r}), LaunchConfig(processes_per_node=2)))
    """
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, **environment, "PIDS": str(pids)}
    )
    wait_for(lambda: len(list(pids.iterdir())) == 2)
    workers = [int(path.name) for path in pids.iterdir()]
    launcher.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "asked").exists)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(timeout=PATIENCE_S)
    assert [(tmp_path / f"saved{rank}").exists() for rank in range(2)] == [True, True]
    assert all(is_over(pid) for pid in workers)


@pytest.mark.usefixtures("forked_launches")
def test_failing_rank_raises_with_its_last_lines(tmp_path: Path) -> None:
    code = """
        import os, sys, time
        if os.environ["RANK"] == "1":
            print("ERROR: the loss of step 7 is nan", file=sys.stderr)
            sys.exit(1)
        time.sleep(600)
    """
    started = time.monotonic()
    with pytest.raises(StageError, match="the loss of step 7 is nan"):
        run_local(_job(tmp_path, code))
    assert time.monotonic() - started < PATIENCE_S, "the healthy rank must not be waited for"


def test_tensor_parallel_groups_fit_the_node() -> None:
    with pytest.raises(ValueError, match="multiple of tensor_parallel"):
        LaunchConfig(processes_per_node=4, tensor_parallel=3)


class Saved:
    """Progress of the jobs below: they write the number of their checkpoints into a file."""

    unit = "step"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "saved"

    def saved(self) -> int:
        return int(self._path.read_text()) if self._path.exists() else 0

    def done(self) -> int:
        return self.saved()

    def finished(self) -> bool:
        return False


@pytest.mark.usefixtures("forked_launches")
def test_rank_that_is_killed_is_followed_by_another_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each attempt saves a step and is killed, until the third: more attempts than may be without a checkpoint."""
    code = f"""
        import os, pathlib, signal, time
        saved = pathlib.Path({str(tmp_path)!r}, "saved")
        step = int(saved.read_text()) if saved.exists() else 0
        print(f"begins after step {{step}}", flush=True)
        if os.environ["RANK"] == "1":
            if step < 2:
                time.sleep(0.3)
                saved.write_text(str(step + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            time.sleep(60 if step < 2 else 0)
    """
    job = _job(tmp_path, code)
    cluster = ClusterConfig.model_validate({"job": {"tries": 1, "poll_s": 0.2}})
    run_job(dataclasses.replace(job, cluster=cluster, progress=Saved(tmp_path)))
    output = capsys.readouterr().out
    assert [f"[rank 1] begins after step {step}" in output for step in range(3)] == [True] * 3
    assert "test failed: rank 1 ended with signal 9." in output
    assert "test starts again after step 2: ended by a signal (attempt 2 failed)" in output


@pytest.mark.usefixtures("forked_launches")
def test_ranks_that_wait_for_one_another_are_ended_with_their_stacks(tmp_path: Path) -> None:
    code = """
        import os, time
        from components.training.stuck import StackWatch
        StackWatch().step()
        print("step 1", flush=True)
        def wait_for_the_other_rank():
            time.sleep(600)
        wait_for_the_other_rank()
    """
    job = _job(tmp_path, code)
    cluster = ClusterConfig.model_validate({"job": {"stall_s": 8, "poll_s": 0.2}})
    job.environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    began = time.monotonic()
    with pytest.raises(ClusterFailure) as error:
        run_local(dataclasses.replace(job, cluster=cluster))
    assert time.monotonic() - began < PATIENCE_S
    said = str(error.value)
    assert "Training job test got no further: no line and no step for" in said
    for rank in range(2):
        assert f"rank {rank} said last: step 1\n" in said
    assert said.count("in wait_for_the_other_rank") == 2
    assert error.value.reason is not None
    assert error.value.reason.name == "no progress"
