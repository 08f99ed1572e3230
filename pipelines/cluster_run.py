"""Runs on a Kubeflow Pipelines installation: submit, follow, look, cancel."""

import contextlib
import hashlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from components.errors import ConfigurationError, InputError, StageError
from pipelines.compile import compile_pipeline

if TYPE_CHECKING:
    from pipelines.config import RunConfig

T = TypeVar("T")
_FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
_POLL_S = 10.0
_REACH_TIMEOUT_S = 15.0
_PATIENCE_S = 900.0
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_VERSION_DIGITS = 12
_PAGE = 100


class ClusterRuns:
    """The runs of one KFP endpoint.

    Args:
        endpoint: URL of KFP's API, which is also that of its UI.
        namespace: The user's namespace of a multi-user installation; empty for a single-user one.
        token_file: File with a bearer token; None where the endpoint needs none.

    Raises:
        ConfigurationError: There is no KFP at the endpoint, or it does not let us in.
    """

    def __init__(self, endpoint: str, namespace: str = "", token_file: Path | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.namespace = namespace
        token = _read_token(token_file)
        self._check_reachable(token)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # KFP's own deprecations
            import kfp

            self._client = kfp.Client(
                host=self.endpoint, existing_token=token or None, namespace=namespace or "kubeflow"
            )

    def submit(self, config: "RunConfig", name: str, service_account: str = "") -> str:
        """Upload the compiled pipeline as a version named by its content, and start a run.

        Args:
            config: The validated configuration.
            name: Name of the pipeline, under which its versions are found.
            service_account: Service account of the run's pods; empty for KFP's own.

        Returns:
            The run's id.

        Raises:
            ConfigurationError: The configuration can't run on a cluster.
            StageError: KFP refuses.
        """
        _check(config)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "pipeline.yaml"
            compile_pipeline(config, package)
            version = hashlib.sha256(package.read_bytes()).hexdigest()[:_VERSION_DIGITS]
            pipeline_id, version_id = self._upload(name, version, package)
        namespace = self.namespace or None
        with contextlib.redirect_stdout(io.StringIO()):  # links with unreadable ids; ours are printed
            experiment = self._said(
                "make the experiment",
                lambda: self._client.create_experiment(config.tracking.experiment, namespace=namespace),
            )
            run = self._said(
                "start the run",
                lambda: self._client.run_pipeline(
                    experiment.experiment_id,
                    config.name,
                    pipeline_id=pipeline_id,
                    version_id=version_id,
                    service_account=service_account or None,
                ),
            )
        return str(run.run_id)

    def link(self, run_id: str) -> str:
        """Return the page of a run in KFP's UI."""
        return f"{self.endpoint}/#/runs/details/{run_id}"

    def get(self, run_id: str) -> Any:
        """Return a run as KFP tells it; the latest one without an id.

        Raises:
            InputError: There is no such run.
        """
        if not run_id:
            return self._latest()
        return self._said(f"look at the run {run_id}", lambda: self._client.get_run(run_id))

    def follow(self, run_id: str, say: Callable[[str], None]) -> str:
        """Say what happens in a run until it is over, through failures of the connection.

        Returns:
            The final state: "SUCCEEDED", "FAILED", "CANCELED" or "SKIPPED".

        Raises:
            StageError: KFP could not be asked for a quarter of an hour; the run goes on.
        """
        seen: dict[str, str] = {}
        while True:
            run = self._patiently(run_id, say)
            for task_id, name, state, message in tasks(run):
                if seen.get(task_id) != state:
                    seen[task_id] = state
                    say(f"{name}: {state.lower()}{f': {message}' if message else ''}")
            if str(run.state) in _FINAL_STATES:
                return str(run.state)
            time.sleep(_POLL_S)

    def cancel(self, run_id: str) -> None:
        """Ask KFP to end a run.

        Raises:
            InputError: There is no such run, or it is over.
        """
        run = self.get(run_id)
        if str(run.state) in _FINAL_STATES:
            raise InputError(f"The run {run_id} is over already: {run.state}.")
        self._said(f"cancel the run {run_id}", lambda: self._client.terminate_run(run_id))

    def _upload(self, name: str, version: str, package: Path) -> tuple[str, str]:
        """Return pipeline and version, uploading what is not there."""
        client = self._client
        with contextlib.redirect_stdout(io.StringIO()):
            pipeline_id = self._said("look for the pipeline", lambda: client.get_pipeline_id(name))
            if pipeline_id is None:
                uploaded = self._said(
                    "upload the pipeline",
                    lambda: client.upload_pipeline(str(package), name, namespace=self.namespace or None),
                )
                versions = self._said("list versions", lambda: client.list_pipeline_versions(uploaded.pipeline_id))
                return str(uploaded.pipeline_id), str(versions.pipeline_versions[0].pipeline_version_id)
            versions = self._said(
                "list versions",
                lambda: client.list_pipeline_versions(pipeline_id, page_size=_PAGE, sort_by="created_at desc"),
            )
            for found in versions.pipeline_versions or []:
                if found.display_name == version:
                    return pipeline_id, str(found.pipeline_version_id)
            new = self._said(
                "upload the version",
                lambda: client.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id),
            )
        return pipeline_id, str(new.pipeline_version_id)

    def _latest(self) -> Any:
        found = self._said(
            "list runs",
            lambda: self._client.list_runs(page_size=1, sort_by="created_at desc", namespace=self.namespace or None),
        )
        if not found.runs:
            raise InputError(f"There are no runs at {self.endpoint}. Start one with `vlm submit`.")
        return self.get(found.runs[0].run_id)

    def _patiently(self, run_id: str, say: Callable[[str], None]) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.get(run_id)
            except _Passing as error:
                if time.monotonic() > deadline:
                    raise StageError(f"{error} The run goes on: {self.link(run_id)}") from None
                say(f"{error} Trying again.")
                time.sleep(_POLL_S)

    def _said(self, what: str, call: Callable[[], T]) -> T:
        """Call KFP and turn its errors into ours."""
        import kfp_server_api
        import urllib3

        try:
            return call()
        except kfp_server_api.ApiException as error:
            message = f"Can't {what}: {error.status} {error.reason}. {_first_line(error.body)}".strip()
            if error.status == 404:
                raise InputError(message) from None
            if error.status in (401, 403):
                raise ConfigurationError(f"{message} Is the token of --token-file valid for --namespace?") from None
            raise (_Passing if error.status in _PASSING_STATUS else StageError)(message) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Passing(f"Can't {what}: {self.endpoint} does not answer ({type(error).__name__}).") from None

    def _check_reachable(self, token: str) -> None:
        """Ask for KFP's health once: its client tries for half a minute, with a traceback each time."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.endpoint}/apis/v2beta1/healthz"
        try:
            answer = requests.get(url, headers=headers, timeout=_REACH_TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            raise ConfigurationError(
                f"There is no Kubeflow Pipelines at {self.endpoint} ({type(error).__name__}). Forward its port "
                "(kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80) and pass --endpoint http://localhost:8080."
            ) from None
        if answer.status_code in (301, 302, 303, 307, 401, 403):
            raise ConfigurationError(
                f"{self.endpoint} wants a login ({answer.status_code}): put a token into a file and pass --token-file."
            )
        if not answer.ok:
            raise ConfigurationError(f"{url} answers {answer.status_code}: is this Kubeflow Pipelines 2?")


class _Passing(StageError):
    """KFP did not answer this time."""


def tasks(run: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield id, name, state and error message of the tasks of a run that have begun."""
    details = run.run_details.task_details if run.run_details else None
    for task in sorted(details or [], key=lambda task: str(task.start_time or task.create_time or "")):
        if task.state:
            yield task.task_id, task.display_name or task.task_id, str(task.state), _message(task.error)


def _message(error: Any) -> str:
    return str(error.message or "") if error else ""


def _first_line(body: Any) -> str:
    return str(body or "").strip().splitlines()[0][:500] if body else ""


def _check(config: "RunConfig") -> None:
    """Refuse what can't run on a cluster before anything is uploaded."""
    if not config.cluster.pvc:
        raise ConfigurationError(
            "On a cluster every stage is a pod of its own: set cluster.pvc to the ReadWriteMany volume claim that they share."
        )
    if not config.workspace.is_absolute():
        raise ConfigurationError(
            f"workspace is {config.workspace}: on a cluster it is the volume's mount path, as workspace=/workspace."
        )


def _read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"Can't read the token file {path}: {error}") from None
