"""Processes forked from the fork server: to who starts them they are what Python itself would have started."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines import fork_server as server_module
from pipelines.fork_server import fork_server, may_fork
from tests.support.paths import ROOT
from tests.support.processes import is_over
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")

SLEEPER = """
    import os, pathlib, subprocess, sys, time
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path("half").write_text(f"{os.getpid()} {child.pid}")
    os.rename("half", "pids")
    time.sleep(600)
"""


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a process below a server that has imported one module, `known`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    with serving(tmp_path, []) as variables:
        yield variables


@contextmanager
def serving(folder: Path, modules: list[str]) -> Iterator[dict[str, str]]:
    """The same with more modules; all are imported."""
    write(
        folder,
        "import os, pathlib\nimported_by = os.getpid()\npathlib.Path(__file__).with_suffix('.seen').touch()",
        "known",
    )
    with fork_server(folder / "bin with blanks", [*modules, "known"]) as variables:
        wait_for(lambda: (folder / "known.seen").exists())
        yield {**os.environ, **variables}


def write(folder: Path, code: str, module: str = "work") -> None:
    (folder / f"{module}.py").write_text(textwrap.dedent(code))


def pids(folder: Path) -> list[psutil.Process]:
    """Wait for the two processes of the sleeper."""
    wait_for(lambda: (folder / "pids").exists())
    return [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]


@pytest.mark.parametrize(
    "code",
    [
        "print('done')",
        "sys.exit(3)",
        "sys.exit('what went wrong')",
        "sys.exit(None)",
        "raise ValueError('with a traceback')",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "print(sys.argv[1:], __name__, os.getcwd(), os.environ['GIVEN'], os.environ.get('PWD_UNSET'))",
        "print(sys.stdin.read()); os.write(2, b'err')",
        "import atexit; atexit.register(print, 'at exit'); sys.stdout.write('no newline')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('waited for'))).start()",
        "import warnings; warnings.warn('of the work')",
        "import multiprocessing as m; ways = [m.get_context(way).Process(target=print, args=(way,)) for way in "
        "('spawn', 'forkserver')]; __name__ == '__main__' and [(p.start(), p.join()) for p in ways]",
    ],
)
def test_process_ends_and_speaks_as_one_that_python_started(
    variables: dict[str, str], tmp_path: Path, code: str
) -> None:
    write(tmp_path, f"import os, signal, sys\n{code}\n")
    answers = []
    for python in ("python3", sys.executable):
        answers.append(
            subprocess.run(
                [python, "-u", "-m", "work", "first", "a b", "-m"],
                cwd=tmp_path,
                env={**variables, "GIVEN": "ü"},
                input="asked\n",
                capture_output=True,
                text=True,
                check=False,
            )
        )
    forked, started = answers
    assert forked.returncode == started.returncode
    assert forked.stdout == started.stdout
    # Frames of runpy differ above the work's own.
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_process_has_what_the_server_has_imported(variables: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, "import os, known\nprint(known.imported_by == os.getppid(), os.getpid() == os.getsid(0))")
    run = subprocess.run(
        ["python3", "-m", "work"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    assert run.stdout == "True True\n"


def test_process_gets_its_own_number_of_threads_and_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    write(
        tmp_path,
        "import numpy, random, torch\nprint(torch.get_num_threads(), numpy.random.rand(), random.random(), sep='|')",
    )
    with serving(tmp_path, ["torch"]) as variables:
        said = [
            subprocess.run(
                ["python3", "-m", "work"],
                cwd=tmp_path,
                env={**variables, "OMP_NUM_THREADS": threads},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split("|")
            for threads in ("1", "2")
        ]
    assert [threads for threads, *_ in said] == ["1", "2"]
    assert said[0][1] != said[1][1]
    assert said[0][2] != said[1][2]


def test_signal_reaches_the_process(variables: dict[str, str], tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        pathlib.Path("ready").touch()
        time.sleep(600)
        """,
    )
    process = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables)
    wait_for(lambda: (tmp_path / "ready").exists())
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == 75


def test_process_has_its_time_to_save_when_all_are_asked_to_end(variables: dict[str, str], tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import os, pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(75)))
        pathlib.Path("half").write_text(str(os.getppid()))
        os.rename("half", "server")
        time.sleep(600)
        """,
    )
    process = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables)
    wait_for(lambda: (tmp_path / "server").exists())
    server = psutil.Process(int((tmp_path / "server").read_text()))
    server.terminate()
    time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == 75
    wait_for(lambda: is_over(server.pid))


def test_killed_stand_in_takes_its_process_and_all_below_along(variables: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, SLEEPER)
    process = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables)
    forked = pids(tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: all(is_over(process.pid) for process in forked))


def test_killed_process_is_a_killed_stand_in(variables: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, SLEEPER)
    process = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables)
    forked, child = pids(tmp_path)
    forked.kill()
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    child.kill()


def test_process_does_not_outlive_the_server(variables: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, SLEEPER)
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables, stderr=said)
    forked, child = pids(tmp_path)
    server = forked.parent()
    assert server is not None
    server.kill()
    assert process.wait(timeout=PATIENCE_S) == 1
    assert "fork server ended before work did" in (tmp_path / "said").read_text()
    wait_for(lambda: is_over(forked.pid))
    child.kill()
    again = subprocess.run(
        ["python3", "-m", "known"], cwd=tmp_path, env=variables, check=True, stderr=subprocess.PIPE, text=True
    )
    assert "fork server is gone" in again.stderr


def test_torchrun_and_its_ranks_are_forks_that_end_with_the_launcher(variables: dict[str, str], tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        import os, pathlib, signal, time, known
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        forked = known.imported_by == os.getppid()
        pathlib.Path(f"rank{os.environ['RANK']}").write_text(f"{os.getpid()} {forked}")
        time.sleep(600)
        """,
        "rank",
    )
    write(
        tmp_path,
        """
        from pathlib import Path
        from components.launch.config import ClusterConfig, LaunchConfig
        from components.launch.job import TrainingJob
        from components.launch.local import run_local
        cluster = ClusterConfig.model_validate({"job": {"grace_s": 5}})
        run_local(TrainingJob("test", "rank", [], Path("logs"), LaunchConfig(processes_per_node=2), cluster=cluster))
        """,
    )
    launcher = subprocess.Popen(["python3", "-m", "work"], cwd=tmp_path, env=variables)
    said = [tmp_path / f"rank{rank}" for rank in range(2)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in said))
    assert [path.read_text().split()[1] for path in said] == ["True", "True"]
    ranks = [psutil.Process(int(path.read_text().split()[0])) for path in said]
    launcher.terminate()
    launcher.wait(timeout=PATIENCE_S)
    wait_for(lambda: all(is_over(rank.pid) for rank in ranks))


def test_what_is_no_module_is_run_by_python(variables: dict[str, str], tmp_path: Path) -> None:
    code = "import os, sys; print(sys.executable, 'known' in sys.modules)"
    run = subprocess.run(
        ["python3", "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{sys.executable} False\n"


def test_server_with_a_second_thread_forks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    write(
        tmp_path,
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "threaded",
    )
    write(tmp_path, "import sys\nprint('threaded' in sys.modules)\nsys.exit(4)")
    with serving(tmp_path, ["threaded"]) as variables:
        run = subprocess.run(
            ["python3", "-m", "work"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 4
    assert run.stdout == "False\n"


def test_no_process_is_forked_beside_a_gpu_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidiactl"
    monkeypatch.setattr(server_module, "_DRIVERS", (tmp_path / "none", driver))
    assert may_fork()
    driver.touch()
    assert not may_fork()
