"""The edge between a KFP component and its stage: errors for people."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from components.errors import VlmError
from components.quiet import ignore_library_warnings


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the task with exit code 1 and the message alone when the user can act on the error.

    Any other exception passes through with its traceback: it is a defect.
    """
    ignore_library_warnings()
    try:
        yield
    except (VlmError, ValidationError) as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
