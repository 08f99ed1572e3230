"""Errors that a person can act on.

Every error of this project that is caused by input, configuration or the machine derives from `VlmError`. Its message
names the file, key or setting, says what was expected and what to do. The command line and the stage runner print such
a message alone, without a traceback; any other exception is a defect of ours and keeps its traceback.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class VlmError(Exception):
    """Base of all errors that the user can act on."""


class ConfigurationError(VlmError):
    """A setting is unknown, missing or has a value that can't work."""


class InputError(VlmError):
    """A file or dataset given by the user is missing, broken or of another layout."""


class StageError(VlmError):
    """A stage can't finish: a promise between stages is broken, or the machine lacks something."""


def first_problem(error: "ValidationError") -> str:
    """Return where the first problem of a validation is, and what it is, for the message of an error."""
    problem: Any = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, problem['loc']))}: {message}" if problem["loc"] else str(message)
