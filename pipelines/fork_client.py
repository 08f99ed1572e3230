"""Stands in for `python3` in a local run: `-m MODULE` becomes a fork of the run's fork server.

This file runs as a script on the standard library alone, before every task: it must start in milliseconds. To whoever started it, it is
the process that it asked for: its output goes where this one's would, it gets this one's signals, dies when this one does, and this one
ends as it ends. Whatever is no `-m MODULE` is left to Python itself.
"""

import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

ADDRESS_VARIABLE = "VLM_FORK_SERVER"
LENGTH = struct.Struct("!I")
NO_PROCESS = 0  # in place of a process's id: the server can't fork
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def abstract(name: str) -> str:
    """Return the address of a Unix socket without a file: nothing of it is left when its server has ended."""
    return f"\0{name}"


def main(arguments: list[str]) -> None:
    """Become a Python process with these arguments."""
    name = os.environ.get(ADDRESS_VARIABLE)
    module = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if not name or module[:1] != ["-m"] or len(module) < 2:
        _execute(arguments)
    request = {"module": module[1], "arguments": module[2:], "environment": dict(os.environ), "folder": os.getcwd()}
    # No signal is lost before there is a process to pass it on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        connection = _ask(name, json.dumps(request).encode())
        answer = connection.makefile(encoding="ascii")
        process = int(answer.readline() or NO_PROCESS)
    except OSError as error:
        print(f"The run's fork server is gone ({error}).", file=sys.stderr)
        process = NO_PROCESS
    if process == NO_PROCESS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        _execute(arguments)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        connection.send(bytes([number]))

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    _end(_code(answer, process, module[1]))


def _ask(name: str, message: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(abstract(name))
    socket.send_fds(connection, [LENGTH.pack(len(message))], [0, 1, 2])
    connection.sendall(message)
    return connection


def _code(answer: TextIO, process: int, module: str) -> int:
    """Wait for the process's exit code."""
    try:
        code = answer.readline()
    except ConnectionError:
        code = ""
    if code:
        return int(code)
    # Who can't be followed any more must not go on alone.
    print(f"The run's fork server ended before {module} did.", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return 1


def _execute(arguments: list[str]) -> NoReturn:
    os.execv(sys.executable, [sys.executable, *arguments])


def _end(code: int) -> NoReturn:
    """End with an exit code, or, where it is negative, by that signal."""
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
