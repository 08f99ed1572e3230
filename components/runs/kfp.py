"""Runs of a Kubeflow Pipelines installation: find, look, follow, cancel."""

import datetime
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from components.errors import ConfigurationError, InputError, StageError
from components.runs.reference import matching_run

T = TypeVar("T")
_FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
_POLL_S = 10.0
_REACH_TIMEOUT_S = 15.0
_PATIENCE_S = 900.0
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_NEWEST_FIRST = "created_at desc"
_PAGE = 100
_SHOWN = 10
_KFP_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class _Listed:
    """A run as KFP lists it."""

    run_id: str
    name: str
    started: datetime.datetime | None


class KfpRuns:
    """The runs of one KFP endpoint.

    Args:
        endpoint: URL of KFP's API, which is also that of its UI.
        namespace: The user's namespace of a multi-user installation; empty for a single-user one.
        token_file: File with a bearer token; None where the endpoint needs none.

    Attributes:
        client: KFP's own client; call it through `ask`.
        version: The server's, as "2.17.0"; empty or other words where it does not know.

    Raises:
        ConfigurationError: There is no KFP at the endpoint, or it does not let us in.
    """

    def __init__(self, endpoint: str, namespace: str = "", token_file: Path | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.namespace = namespace
        token = _read_token(token_file)
        self.version = self._ask_version(token)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # KFP's own deprecations
            import kfp

            self.client = kfp.Client(
                host=self.endpoint, existing_token=token or None, namespace=namespace or "kubeflow"
            )

    def link(self, run_id: str) -> str:
        """Return the page of a run in KFP's UI."""
        return f"{self.endpoint}/#/runs/details/{run_id}"

    def get(self, run_id: str) -> Any:
        """Return a run as KFP tells it.

        Raises:
            InputError: There is no such run.
        """
        return self.ask(f"look at the run {run_id}", lambda: self.client.get_run(run_id))

    def find(self, reference: str) -> str:
        """Return the id of the run that a reference names (see `reference.py`); of the newest one without a reference.

        Raises:
            InputError: There is no such run.
        """
        if _KFP_ID.fullmatch(reference):
            return reference
        if not reference:
            newest = self._newest()
            if not newest:
                raise InputError(f"There are no runs at {self.endpoint}. Start one with `vlm submit`.")
            return newest[0].run_id
        for operation, key in (("EQUALS", "display_name"), ("IS_SUBSTRING", "run_id")):
            wanted = {"operation": operation, "key": key, "stringValue": reference}
            for page in self._pages(json.dumps({"predicates": [wanted]})):  # KFP's comparison knows no case
                found = matching_run(reference, page)
                if found is not None:
                    return found.run_id
        known = ", ".join(f"{run.name} ({run.run_id})" for run in self._newest()) or "none"
        raise InputError(f"There is no run {reference!r} at {self.endpoint}. Its runs, newest first: {known}.")

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
        self.ask(f"cancel the run {run_id}", lambda: self.client.terminate_run(run_id))

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Call KFP and turn its errors into ours.

        Args:
            what: What is wanted of KFP, for errors: "cancel the run 42".
            call: Calls the client.

        Raises:
            InputError: KFP does not have it.
            ConfigurationError: KFP does not let us in.
            StageError: KFP refuses, or does not answer.
        """
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

    def _newest(self) -> list[_Listed]:
        return next(self._pages("", size=_SHOWN))

    def _pages(self, wanted: str, size: int = _PAGE) -> Iterator[list[_Listed]]:
        """Yield pages of the runs that pass a filter, newest first."""
        token = ""
        while True:
            answer = self._list(wanted, size, token)
            yield [_Listed(run.run_id, run.display_name, run.created_at) for run in answer.runs or []]
            token = answer.next_page_token
            if not token:
                return

    def _list(self, wanted: str, size: int, token: str) -> Any:
        return self.ask(
            "list runs",
            lambda: self.client.list_runs(
                page_token=token,
                page_size=size,
                sort_by=_NEWEST_FIRST,
                namespace=self.namespace or None,
                filter=wanted or None,
            ),
        )

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

    def _ask_version(self, token: str) -> str:
        """Ask for KFP's health once: its client tries for half a minute, with a traceback each time, and drops the version."""
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
        try:
            return str(answer.json().get("tag_name") or "")
        except (ValueError, AttributeError):
            raise ConfigurationError(f"{url} answers something else than JSON: is this Kubeflow Pipelines 2?") from None


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


def _read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"Can't read the token file {path}: {error}") from None
