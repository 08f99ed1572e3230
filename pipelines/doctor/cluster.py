"""Examines a cluster for a run: every check is a row of the table below."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console

from components.errors import ConfigurationError
from pipelines.doctor import apis, kfp, namespace, nodes, pods, queue, rights, runtime, workspace
from pipelines.doctor.finding import Finding, Mark, marked, show
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Reader, Unreadable

Check = Callable[[Reader, Question], Iterable[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("nodes", nodes.count),
    ("GPUs", nodes.gpus),
    ("clock", nodes.clocks),
    ("PyTorchJob", apis.pytorchjob),
    ("TrainJob", apis.trainjob),
    ("training runtime", runtime.runtime),
    ("Kueue", apis.kueue),
    ("queue", queue.queue),
    ("queue", queue.controller),
    ("KFP retries", kfp.retries),
    ("namespace", namespace.namespace),
    ("quota", namespace.quotas),
    ("network policies", namespace.network),
    ("service account", rights.of_service_account),
    ("your rights", rights.of_user),
    ("workspace", workspace.claim),
    ("secret", namespace.secrets),
)
"""What is looked at, in this order: the subject, under which a check that can't look is shown, and the check."""


def examine(
    reader: Reader,
    question: Question,
    console: Console,
    endpoint: str = "",
    token_file: Path | None = None,
    with_pods: bool = False,
) -> int:
    """Print what a cluster has for a run, and return 0 when nothing that could be seen is missing, else 1.

    Args:
        reader: Looks at the cluster.
        question: What is to run.
        console: Where to print.
        endpoint: Kubeflow Pipelines' API; empty for a look at the cluster alone.
        token_file: File with a bearer token for the endpoint.
        with_pods: Start short pods for what only a pod can tell.

    Raises:
        ConfigurationError: The cluster does not answer.
    """
    try:
        found = list(apis.kubernetes(reader, question))
    except Unreadable as error:
        raise ConfigurationError(
            f"The cluster can't be examined: {error}. Which cluster is KUBECONFIG's current one?"
        ) from None
    found += (
        kfp.endpoint(endpoint, question.namespace, token_file)
        if endpoint
        else _looked("KFP", kfp.server, reader, question)
    )
    for subject, check in CHECKS:
        found += _looked(subject, check, reader, question)
    if with_pods:
        found += _looked("in a pod", pods.tried, reader, question)
    else:
        found += pods.not_tried(question)
    show(found, console)
    return _verdict(found, console)


def _looked(subject: str, check: Check, reader: Reader, question: Question) -> Iterator[Finding]:
    """Yield what a check finds; where it may not look, a row that says so."""
    try:
        yield from check(reader, question)
    except Unreadable as error:
        yield Finding(
            subject, Mark.UNKNOWN, f"can't be looked at: {error}", "ask for the right, or let an administrator look"
        )


def _verdict(found: list[Finding], console: Console) -> int:
    missing, unknown = marked(found, Mark.BAD), marked(found, Mark.UNKNOWN)
    if unknown:
        console.print(
            f"Not known, because it could not be looked at: {', '.join(unknown)}.", markup=False, soft_wrap=True
        )
    if missing:
        console.print(f"This run can't work here yet: {', '.join(missing)}.", markup=False, soft_wrap=True)
        return 1
    console.print("Nothing that could be seen is missing.", markup=False)
    return 0
