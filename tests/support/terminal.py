"""A program in a terminal of its own, and what can be read on its screen."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """A program that runs in a pseudo-terminal.

    Args:
        command: The program and its arguments.
        columns: Width.
        rows: Height.
        environment: Its environment.

    Attributes:
        output: Everything it has written.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self.output = ""
        self._columns, self._rows = columns, rows
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end within a character
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(command[0], list(command), dict(environment))

    def read(self, until: Callable[[str], bool] = lambda output: False, seconds: float = 120.0) -> None:
        """Read until a condition holds for everything that was written, or the program has ended."""
        end = time.monotonic() + seconds
        while not until(self.output):
            if time.monotonic() > end:
                raise TimeoutError(f"The program wrote only:\n{self.output}")
            if not select.select([self._master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # how Linux ends a terminal
                piece = b""
            if not piece:
                return
            self.output += self._decoder.decode(piece)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Read the rest, and return the exit status."""
        self.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with contextlib.suppress(OSError):
            os.close(self._master)
        return status

    def screen(self) -> list[str]:
        """Return the lines that are visible now, without empty ones at the end; colours are left out."""
        return screen(self.output, self._columns, self._rows)


def screen(output: str, columns: int, rows: int) -> list[str]:
    """Return what a terminal shows after some output; it knows what `rich.live` writes, and refuses everything else."""
    lines, row, column = [""], 0, 0
    for numbers, letter, start, line_end, text in _PIECE.findall(output):
        if start:
            column = 0
        elif line_end:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text:
            for character in text:
                if column == columns:
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                lines[row] = f"{lines[row][:column]:{column}}{character}{lines[row][column + 1 :]}"
                column += 1
        elif letter == "A":
            # No further up than the screen: what has scrolled away stays as it is.
            row = max(row - int(numbers or 1), len(lines) - rows, 0)
        elif letter == "K" and numbers == "2":
            lines[row] = ""
        elif letter not in ("m", "h", "l"):
            raise ValueError(f"This terminal does not know ESC [ {numbers} {letter}")
    return "\n".join(line.rstrip() for line in lines[-rows:]).rstrip("\n").split("\n")
