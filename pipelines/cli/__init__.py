"""`vlm`: compile the pipeline, run it here or on a cluster, see how it goes, read its report, export a model.

Commands import what they need when they run, so that `vlm --help` answers at once.
"""

import io
import sys
from collections.abc import Sequence

from components.errors import VlmError
from pipelines.cli.arguments import INTERRUPTED_STATUS
from pipelines.cli.parser import build_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 success, 1 an error with a message, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a model says must not end a run where it can't be shown
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status: int = options.command(options)
    except VlmError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:  # `vlm status | head`
        return 0
    return status
