"""Why a training job did not finish, by what helps: another try, or another setting."""

from components.errors import ConfigurationError, StageError
from components.launch.classification import Reason


class TrainingFailed(StageError):
    """The training itself failed; the same job would fail again. Change what the message names."""


class ClusterFailure(StageError):
    """Another try may succeed (lost node, eviction, a signal, an API that does not answer); it goes on from the newest checkpoint.

    Attributes:
        reason: Why an attempt failed; None where the job itself did not fail, or must not be made anew.
    """

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class JobRejected(ConfigurationError):
    """The cluster does not take the job: its settings, the permissions or the installed operators don't fit."""
