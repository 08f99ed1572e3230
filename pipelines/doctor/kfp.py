"""Kubeflow Pipelines: its version, and what Argo tries again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.errors import VlmError
from components.runs.kfp import KfpRuns
from components.yaml_text import parse_yaml
from pipelines.doctor.apis import running_version
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Reader
from pipelines.kfp_version import warnings

_SUBJECT = "KFP"
_RETRIES = "KFP retries"
_UPGRADE = "upgrade Kubeflow Pipelines"


def endpoint(url: str, namespace: str, token_file: Path | None) -> Iterator[Finding]:
    """Tell whether Kubeflow Pipelines answers at an endpoint, and what is wrong with its version."""
    try:
        version = KfpRuns(url, namespace, token_file).version
    except VlmError as error:
        yield Finding(_SUBJECT, Mark.BAD, str(error))
        return
    yield from _versions(version, f"{version or 'of unknown version'} at {url}")


def server(reader: Reader, _question: Question) -> Iterator[Finding]:
    """Tell which Kubeflow Pipelines the cluster runs, where no endpoint was named."""
    version = running_version(reader, "kfp-api-server")
    yield from _versions(version, f"{version}; pass --endpoint to see whether it answers")


def retries(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell what Argo tries again: its defaults merge into every task's own retry policy."""
    namespace = question.kfp_namespace
    config = reader.get(f"/api/v1/namespaces/{namespace}/configmaps/workflow-controller-configmap")
    if config is None:
        advice = "name KFP's namespace with --kfp-namespace"
        yield Finding(_RETRIES, Mark.UNKNOWN, f"no Argo configuration in the namespace {namespace}", advice)
        return
    policy = retry_policy(config.get("data") or {})
    if policy in ("OnFailure", "Always"):
        yield Finding(_RETRIES, Mark.FACT, f"Argo tries a task again that failed or was lost (retryPolicy {policy})")
        return
    text = f"Argo tries again what was lost, not what failed (retryPolicy {policy})"
    advice = "training jobs are made anew by their launcher all the same; other stages that fail need another submit"
    yield Finding(_RETRIES, Mark.FACT, text, advice)


def retry_policy(data: dict[str, Any]) -> str:
    """Return the retry policy that Argo gives to every template; its own default where none is set."""
    defaults = parse_yaml(data.get("workflowDefaults") or "") or {}
    strategy = ((defaults.get("spec") or {}).get("templateDefaults") or {}).get("retryStrategy") or {}
    return str(strategy.get("retryPolicy") or "OnFailure")


def _versions(version: str, shown: str) -> Iterator[Finding]:
    said = warnings(version)
    if not said:
        yield Finding(_SUBJECT, Mark.GOOD, shown)
    for warning in said:
        known = version[:1].isdigit()
        yield Finding(_SUBJECT, Mark.BAD if known else Mark.UNKNOWN, warning, _UPGRADE if known else "")
