"""Why a training job did not finish, by what helps: another try, or another setting."""

from components.errors import ConfigurationError, StageError


class TrainingFailed(StageError):
    """The training itself failed; the same job would fail again. Change what the message names."""


class ClusterFailure(StageError):
    """The cluster failed (lost node, eviction, unreachable API); another try goes on from the newest checkpoint."""


class JobRejected(ConfigurationError):
    """The cluster does not take the job: its settings, the permissions or the installed operators don't fit."""
