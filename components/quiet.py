"""Keeps libraries' warnings out of the log of a stage, where people look for what happened."""

import warnings


def ignore_library_warnings() -> None:
    """Leave out what libraries say to those who program with them; errors, and our own WARNING lines, stay."""
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
