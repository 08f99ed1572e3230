"""Errors that a person can act on.

Every error of this project that is caused by input, configuration or the machine derives from `VlmError`. Its message
names the file, key or setting, says what was expected and what to do. The command line and the stage runner print such
a message alone, without a traceback; any other exception is a defect of ours and keeps its traceback.
"""


class VlmError(Exception):
    """Base of all errors that the user can act on."""


class ConfigurationError(VlmError):
    """A setting is unknown, missing or has a value that can't work."""


class InputError(VlmError):
    """A file or dataset given by the user is missing, broken or of another layout."""


class StageError(VlmError):
    """A stage can't finish: a promise between stages is broken, or the machine lacks something."""
