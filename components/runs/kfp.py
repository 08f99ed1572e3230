"""Runs of a Kubeflow Pipelines installation: find, look, cancel, read logs."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from components.errors import ConfigurationError, InputError, StageError, VlmError
from components.runs.kfp_run import OVER, KfpRun, kfp_run
from components.runs.reference import matching_run

if TYPE_CHECKING:
    import kfp

T = TypeVar("T")
_REACH_TIMEOUT_S = 15.0
_TIMEOUT_S = 60.0
_MESSAGE_LIMIT = 600
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_NEWEST_FIRST = "created_at desc"
_PAGE = 100
_SHOWN = 10
_API = "/apis/v2beta1"
_SAVED = Path("~/.config/kfp/context.json")
_KFP_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def run_page(ui: str, run_id: str) -> str:
    """Return the page of a run, given the address of KFP's UI."""
    return f"{ui.rstrip('/')}/#/runs/details/{run_id}"


class KfpRuns:
    """The runs of one KFP endpoint.

    Args:
        endpoint: URL of KFP's API, which is also that of its UI.
        namespace: The user's namespace of a multi-user installation; by default the one that was saved for KFP's tools
            (`kfp.Client().set_user_namespace`), and for a single-user installation none.
        token_file: File with a bearer token; None where the endpoint needs none.

    Attributes:
        namespace: The user's namespace; empty for a single-user installation.
        version: The server's, as "2.17.0"; empty or other words where it does not know.

    Raises:
        ConfigurationError: There is no KFP at the endpoint, it does not let us in, or what was saved can't be read.
    """

    def __init__(self, endpoint: str, namespace: str = "", token_file: Path | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.namespace = namespace or _saved_namespace()
        self._token = _read_token(token_file)
        self._headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self.version = self._ask_version()

    @cached_property
    def client(self) -> "kfp.Client":
        """KFP's own client, which takes seconds to import, for what starts runs; call it through `ask`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # KFP's own deprecations
            import kfp

            return kfp.Client(
                host=self.endpoint, existing_token=self._token or None, namespace=self.namespace or "kubeflow"
            )

    def link(self, run_id: str) -> str:
        """Return the page of a run in KFP's UI."""
        return run_page(self.endpoint, run_id)

    def get(self, run_id: str) -> KfpRun:
        """Return a run as KFP tells it.

        Raises:
            InputError: There is no such run.
        """
        return kfp_run(self._call(f"look at the run {run_id}", "GET", f"/runs/{run_id}"))

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

    def specification(self, run: KfpRun) -> dict[str, Any]:
        """Return the compiled pipeline of a run: KFP's `PipelineSpec`, as its YAML file has it.

        Raises:
            InputError: KFP does not have it any more.
        """
        found = run.specification
        if not found and run.version is None:
            raise InputError(f"KFP at {self.endpoint} does not have the pipeline of the run {run.run_id} any more.")
        if not found and run.version is not None:
            pipeline, version = run.version
            what = f"look at the pipeline of the run {run.run_id}"
            found = self._call(what, "GET", f"/pipelines/{pipeline}/versions/{version}")["pipeline_spec"]
        return dict(found.get("pipeline_spec", found))  # beside a platform_spec, where there is one

    def log(self, run_id: str, pod: str, node: str) -> str | None:
        """Return the log of a pod of a run, from KFP's archive when the pod is gone; None where KFP has none (any more).

        KFP serves logs beside its typed API, the UI in one place and the API server in another.

        Args:
            run_id: The run.
            pod: Name of the pod.
            node: Id of its node in the workflow, by which the API server's archive knows it.

        Raises:
            StageError: KFP does not answer.
        """
        named = {"podname": pod, **({"podnamespace": self.namespace} if self.namespace else {})}
        api = f"{self.endpoint}/apis/v1alpha1/runs/{run_id}/nodes"
        for url, query in (
            (f"{self.endpoint}/k8s/pod/logs", named),
            (f"{api}/{pod}/log", {}),
            (f"{api}/{node}/log", {}),
        ):
            try:
                answer = requests.get(url, query, headers=self._headers, timeout=_TIMEOUT_S)
            except requests.RequestException as error:
                raise self._silent(f"read the log of {pod}", error) from None
            # The UI answers an address that it does not know with its own page.
            if answer.ok and answer.headers.get("Content-Type", "").startswith("text/plain"):
                return answer.content.decode("utf-8", errors="replace")
        return None

    def cancel(self, run_id: str) -> None:
        """Ask KFP to end a run.

        Raises:
            InputError: There is no such run, or it is over.
        """
        run = self.get(run_id)
        if run.state in OVER:
            raise InputError(f"The run {run_id} is over already: it is {run.state}.")
        self._call(f"cancel the run {run_id}", "POST", f"/runs/{run_id}:terminate")

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Call KFP's client and turn its errors into ours.

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
            raise _refused(what, error.status, error.reason, error.body) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._silent(what, error) from None

    def _call(self, what: str, method: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return what KFP's API answers; raises as `ask`."""
        try:
            answer = requests.request(
                method, f"{self.endpoint}{_API}{path}", params=query, headers=self._headers, timeout=_TIMEOUT_S
            )
        except requests.RequestException as error:
            raise self._silent(what, error) from None
        if not answer.ok:
            raise _refused(what, answer.status_code, answer.reason, answer.text)
        try:
            return answer.json()
        except ValueError:
            raise ConfigurationError(
                f"Can't {what}: {answer.url} answers something else than JSON. Does it want a login?"
            ) from None

    def _silent(self, what: str, error: Exception) -> "PassingError":
        return PassingError(f"Can't {what}: {self.endpoint} does not answer ({type(error).__name__}).")

    def _newest(self) -> list[KfpRun]:
        return next(self._pages("", size=_SHOWN))

    def _pages(self, wanted: str, size: int = _PAGE) -> Iterator[list[KfpRun]]:
        """Yield pages of the runs that pass a filter, newest first."""
        query = {"sort_by": _NEWEST_FIRST, "page_size": str(size), "namespace": self.namespace, "filter": wanted}
        query = {name: value for name, value in query.items() if value}
        while True:
            answer = self._call("list runs", "GET", "/runs", query)
            yield [kfp_run(run) for run in answer.get("runs") or []]
            token = answer.get("next_page_token")
            if not token:
                return
            query["page_token"] = token

    def _ask_version(self) -> str:
        """Ask for KFP's health once: its client tries for half a minute, with a traceback each time, and drops the version."""
        url = f"{self.endpoint}{_API}/healthz"
        try:
            answer = requests.get(url, headers=self._headers, timeout=_REACH_TIMEOUT_S, allow_redirects=False)
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


class PassingError(StageError):
    """KFP did not answer this time."""


def is_kfp_id(reference: str) -> bool:
    """Tell whether a reference is a whole id as KFP gives them."""
    return _KFP_ID.fullmatch(reference) is not None


def _refused(what: str, status: int, reason: str, body: Any) -> VlmError:
    """Return the error of an answer that is none."""
    message = f"Can't {what}: {status} {reason}. {_server_message(body)}".strip()
    if status == 404:
        return InputError(message)
    if status in (401, 403):
        return ConfigurationError(f"{message} Is the token of --token-file valid for --namespace?")
    return (PassingError if status in _PASSING_STATUS else StageError)(message)


def _server_message(body: Any) -> str:
    """Return what a server says in the body of an error: JSON with a message, or text."""
    text = str(body or "").strip()
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        said = [answer.get(name) for name in ("message", "error", "error_message")]
        text = next((entry for entry in said if isinstance(entry, str) and entry), text)
    return " ".join(text.split())[:_MESSAGE_LIMIT]


def _saved_namespace() -> str:
    path = _SAVED.expanduser()
    try:
        return str(json.loads(path.read_bytes()).get("namespace") or "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"Can't read {path}, where KFP's tools keep your namespace: {error}. Mend or delete it, or pass --namespace."
        ) from error


def _read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"Can't read the token file {path}: {error}") from None
