"""Forks the processes of a local run from one that has imported what most of them need.

Twenty tasks and their ranks would each import KFP, MLflow, torch and megatron-core for seconds. A fork has them, in memory that all
share. It is a process of its own all the same: its own session, folder, environment, output, signals and exit code, by way of the
client that stands in for it (`fork_client.py`).

A fork is sound while the server has one thread and has touched no GPU. So nothing but imports happens here; with a second thread, each
process starts by itself; and where there is a GPU's driver, whose state no fork survives, there is no server (`may_fork`).
"""

import atexit
import gc
import inspect
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn
from uuid import uuid4

import psutil

from pipelines import fork_client
from pipelines.fork_client import ADDRESS_VARIABLE, LENGTH, NO_PROCESS, abstract

# NVIDIA's driver, the same below Windows (WSL), AMD's.
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_THREADS = Path("/proc/self/task")
# numpy's OpenBLAS starts its pool of threads as it is imported. KFP imports what runs a task, as it does in a task's own
# process, and not its compiler and client.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "_KFP_RUNTIME": "true"}
_PEER_CREDENTIALS = 12  # bytes of `struct ucred`: process, user, group


class Request(NamedTuple):
    """A process that is to be started.

    Attributes:
        module: What `python -m` would run.
        arguments: Its arguments.
        environment: All of its environment.
        folder: Its working directory.
        descriptors: Its standard input, output and error.
    """

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    descriptors: list[int]


def may_fork() -> bool:
    """Return whether processes here can be forked after torch was imported: on Linux, without a GPU's driver."""
    return sys.platform == "linux" and not any(driver.exists() for driver in _DRIVERS)


@contextmanager
def fork_server(folder: Path, modules: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run a server until the block ends.

    Args:
        folder: Where the stand-in for `python3` is written.
        modules: What the server imports, in this order, while nobody asks for a process.

    Yields:
        Variables: below them, `python3 -m MODULE` and torchrun's ranks are forks of the server.
    """
    name = f"vlm-{uuid4()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(abstract(name))
        listener.listen(128)
        command = [sys.executable, "-u", "-m", "pipelines.fork_server", str(listener.fileno()), *modules]
        server = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT}
        )
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python3"
    script = shlex.join([sys.executable, "-S", "-I", fork_client.__file__])
    python.write_text(f'#!/bin/sh\nexec {script} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    try:
        yield {
            ADDRESS_VARIABLE: name,
            "PATH": os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)]),
            "PYTHON_EXEC": str(python),  # torchrun's own setting, followed by the local launcher too
        }
    finally:
        server.terminate()
        server.wait()


class _Server:
    """Takes requests, forks, and tells each client how its process ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._processes: dict[socket.socket, int] = {}
        self._ending = False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        """End with the last process: whoever ends a run sends SIGTERM to all at once, and a rank needs time to save."""
        self._ending = True
        if not self._processes:
            _leave()

    def serve(self, patience: float | None) -> Request | None:
        """Serve who is there.

        Args:
            patience: Seconds to wait for somebody; None to wait for ever.

        Returns:
            In a new process its request; None in the server.
        """
        for key, _ in self._selector.select(patience):
            request: Request | None = key.data()
            if request is not None:
                return request
        return None

    def _accept(self) -> Request | None:
        connection, _ = self._listener.accept()
        if _user(connection) != os.getuid():
            connection.close()
            return None
        request = _receive(connection)
        if request is None:
            connection.close()
            return None
        threaded = len(list(_THREADS.iterdir())) > 1
        if threaded:
            print("The fork server has a second thread; no process is forked any more.", file=sys.stderr)
        if threaded or self._ending:
            _tell(connection, NO_PROCESS)
            connection.close()
            _close(request.descriptors)
            return None
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until it has its own, or is one to wait for
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            self._selector.close()
            self._listener.close()
            for other in (connection, *self._processes):
                other.close()
            os.setsid()
            return request
        _close(request.descriptors)
        ended = os.pidfd_open(process)
        self._processes[connection] = process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._report(connection, process, ended))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._pass_on(connection, process))
        _tell(connection, process)
        return None

    def _report(self, connection: socket.socket, process: int, ended: int) -> None:
        _, status = os.waitpid(process, 0)
        self._selector.unregister(ended)
        os.close(ended)
        if connection in self._processes:
            _tell(connection, os.waitstatus_to_exitcode(status))
            self._forget(connection)
        if self._ending and not self._processes:
            _leave()

    def _pass_on(self, connection: socket.socket, process: int) -> None:
        """Hand a client's signals to its process; when the client is dead, kill it and all that it started."""
        if connection not in self._processes:
            return
        try:
            signals = connection.recv(64)
        except ConnectionError:
            signals = b""
        for number in signals:
            os.kill(process, number)  # it is waited for nowhere else: the id is still its own
        if not signals:
            with suppress(psutil.Error):
                for descendant in psutil.Process(process).children(recursive=True):
                    with suppress(psutil.Error):
                        descendant.kill()
            os.kill(process, signal.SIGKILL)
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._processes[connection]
        connection.close()


def _leave() -> NoReturn:
    """End the server; it has nothing to flush, and to take down the modules of torch would cost a second."""
    os._exit(0)


def _user(connection: socket.socket) -> int:
    """Return the user at the other end: a socket without a file has no permissions."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS)
    return int.from_bytes(credentials[4:8], sys.byteorder)


def _receive(connection: socket.socket) -> Request | None:
    """Return what a client asks for; None if it died first."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    with connection.makefile("rb") as stream:
        message = stream.read(length)
    if len(message) < length:
        _close(descriptors)
        return None
    return Request(**json.loads(message), descriptors=list(descriptors))


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _tell(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # the client is dead: its connection's end is read next
        connection.sendall(f"{number}\n".encode())


def _run(request: Request) -> NoReturn:
    """Be the process of a request, from its first line to its last."""
    gc.enable()
    _become(request)
    code = 0
    try:
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # as the interpreter would end on it
        sys.excepthook(*sys.exc_info())
        code = 1
    # What an interpreter does before it takes down its modules: two seconds of that for those which all share.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code & 0xFF)


def _become(request: Request) -> None:
    """Take over the request's folder, streams, environment and arguments."""
    os.chdir(request.folder)
    for number, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = [request.module, *request.arguments]
    sys.path[0] = request.folder
    given = request.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in given if path and path not in sys.path]
    if request.environment.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed()
    if "torch" in sys.modules:
        import torch

        from components.cores import available_cores

        # OpenMP has read the server's environment, not this one.
        torch.set_num_threads(int(request.environment.get("OMP_NUM_THREADS") or available_cores()))
    sys.modules.pop(request.module, None)  # a main module runs anew


def _import_megatron() -> None:
    from components.model.megatron import import_megatron

    import_megatron()


def _import(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _SPECIAL.get(module, lambda: __import__(module))()


def _index_modules() -> None:
    """Let `inspect` find the module of each frame of a stack at once.

    torchrun's rendezvous asks for its stack thirty times. Each would walk all modules (40 ms here), in vain, for the frames of
    `python -m`: they have no file.
    """
    inspect.modulesbyfile["<frozen runpy>"] = runpy.__name__
    inspect.stack()


_SPECIAL: dict[str, Callable[[], object]] = {"megatron.core": _import_megatron}


def main() -> NoReturn:
    """Serve on the socket of the first argument, and import the modules of the others meanwhile."""
    server = _Server(socket.socket(fileno=int(sys.argv[1])))
    modules = sys.argv[2:]
    gc.disable()  # what imports make is no garbage, and to look for some takes a sixth of their time
    while True:
        request = server.serve(0 if modules else None)
        if request is not None:
            _run(request)
        if modules:
            _import(modules.pop(0))
            if not modules:
                _index_modules()
                gc.collect()
                gc.freeze()  # no fork looks through what all share, nor copies its memory to do so


if __name__ == "__main__":
    main()
