"""The part of Kubeflow Pipelines' API that `vlm submit`, `status` and `cancel` use, for the real client."""

import datetime
import json
import re
import uuid
from collections import deque
from email.parser import BytesParser
from pathlib import Path

from components.yaml_text import parse_documents
from tests.support.json_server import JsonHandler, JsonServer, Object

API = "/apis/v2beta1"
UI_LOGS, API_LOGS = "/k8s/pod/logs", "/apis/v1alpha1/runs"
LOGS = (UI_LOGS, API_LOGS)
RECORDED = Path(__file__).parent / "recorded" / "kfp"


def recorded_run(name: str) -> Object:
    """Return what a real server answered for a run."""
    run: Object = json.loads((RECORDED / f"{name}.json").read_text())
    return run


def recorded_events() -> list[Object]:
    """Return what a real cluster told of pods that waited, each event with its pod's name."""
    events: list[Object] = json.loads((RECORDED / "events_of_waiting_pods.json").read_text())
    return events


def recorded_specification(name: str = "pipeline_spec") -> Object:
    """Return the compiled pipeline of the recorded runs, cut down to what tells which task is which."""
    specification: Object = json.loads((RECORDED / f"{name}.json").read_text())
    return specification


def as_of(run: Object, moment: str) -> Object:
    """Return what a server would have answered for a recorded run at a moment before its end, in the same form.

    The containers that had begun by then are taken to wait for their pods.
    """
    tasks = []
    for task in run["run_details"]["task_details"]:
        if task["start_time"] > moment or "state" not in task:
            continue
        if task["end_time"] > moment:
            state = "PENDING" if task["display_name"].startswith("executor(") else "RUNNING"
            task = {**task, "end_time": "0001-01-01T00:00:00Z", "state": state}
        tasks.append(task)
    history = [entry for entry in run["state_history"] if entry["update_time"] <= moment]
    now = {
        "state": history[-1].get("state", "RUNNING") if history else "PENDING",
        "state_history": history,
        "run_details": {"task_details": tasks},
    }
    return {**run, **now, "finished_at": "0001-01-01T00:00:00Z"}


class KfpServer:
    """The server's state; a run goes through `script`, a step at each look."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Object] = {}
        self.versions: dict[str, Object] = {}
        self.packages: dict[str, list[Object]] = {}
        self.experiments: dict[str, Object] = {}
        self.runs: dict[str, Object] = {}
        self.script: deque[Object] = deque()
        self.faults: deque[int] = deque()
        self.token = ""
        self.logs: dict[str, str] = {}
        """Address of a log, without the server's own, to its text."""
        self.version = "2.17.0"
        self._http = JsonServer(_Handler, self)
        self.url = self._http.url

    def close(self) -> None:
        self._http.close()

    def add_recorded(self, run: Object, specification: Object) -> str:
        """Add a recorded run with its pipeline, and return its id."""
        self.runs[run["run_id"]] = run
        reference = run.get("pipeline_version_reference")
        if reference:
            self.versions[reference["pipeline_version_id"]] = {**reference, "pipeline_spec": specification}
        else:  # of a run that was started from a file
            run["pipeline_spec"] = specification
        return str(run["run_id"])

    def add_version(self, pipeline_id: str, name: str, package: bytes) -> Object:
        version = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "display_name": name,
            "created_at": "2026-01-01T00:00:00Z",
        }
        documents = parse_documents(package)
        self.packages[version["pipeline_version_id"]] = documents
        specification = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False))
        self.versions[version["pipeline_version_id"]] = {**version, "pipeline_spec": specification}
        return version


class _Handler(JsonHandler):
    state: KfpServer

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self.state
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            return self.answer(401, {"error": "who are you?"})
        if state.faults and "/runs/" in path:
            return self.answer(
                state.faults.popleft(), {"error": "busy", "code": 14, "message": "busy: no endpoints available"}
            )
        if path.startswith(LOGS):
            return self._log(path, query)
        return self.answer(*self._dispatch(method, path.removeprefix(API), query, body))

    def _log(self, path: str, query: dict[str, str]) -> None:
        """A log of the UI, or of the API server; what is not there is an error in the words of each."""
        text = self.state.logs.get(f"{path}?{query['podname']}" if query else path)
        if text is not None:
            return self._text(200, text)
        if query:
            return self._text(
                500, "Could not get main container logs: Error: Unable to find pod log archive information"
            )
        return self.answer(500, {"error_message": "Failed to read logs for run"})

    def _text(self, code: int, text: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _dispatch(self, method: str, path: str, query: Object, body: bytes) -> tuple[int, Object]:
        state = self.state
        if path == "/healthz":
            return 200, {"commit_sha": "unknown", "tag_name": state.version, "multi_user": False}
        if path == "/pipelines":
            wanted = json.loads(query["filter"])["predicates"][0]["stringValue"] if "filter" in query else None
            found = [one for one in state.pipelines.values() if wanted in (None, one["display_name"])]
            return 200, {"pipelines": found, "total_size": len(found)}
        if path == "/pipelines/upload":
            pipeline = {"pipeline_id": str(uuid.uuid4()), "display_name": query["name"]}
            state.pipelines[pipeline["pipeline_id"]] = pipeline
            state.add_version(pipeline["pipeline_id"], query["name"], self._file(body))
            return 200, pipeline
        if path == "/pipelines/upload_version":
            return 200, state.add_version(query["pipelineid"], query["name"], self._file(body))
        if match := re.fullmatch(r"/pipelines/([^/]+)/versions", path):
            versions = [one for one in state.versions.values() if one["pipeline_id"] == match.group(1)]
            return 200, {"pipeline_versions": versions}
        if match := re.fullmatch(r"/pipelines/([^/]+)/versions/([^/]+)", path):
            version = state.versions.get(match.group(2))
            return (200, version) if version else (404, {"error": f"Version {match.group(2)} not found"})
        if path == "/experiments" and method == "POST":
            experiment = {**json.loads(body), "experiment_id": str(uuid.uuid4())}
            state.experiments[experiment["experiment_id"]] = experiment
            return 200, experiment
        if path == "/experiments":
            return 200, {"experiments": list(state.experiments.values())}
        return self._run(method, path, query, body)

    def _run(self, method: str, path: str, query: Object, body: bytes) -> tuple[int, Object]:
        state = self.state
        if path == "/runs" and method == "POST":
            now = datetime.datetime.now(datetime.UTC).isoformat()
            run = {**json.loads(body), "run_id": str(uuid.uuid4()), "state": "PENDING", "created_at": now}
            state.runs[run["run_id"]] = run
            return 200, run
        if path == "/runs":
            return 200, self._listed(query)
        if match := re.fullmatch(r"/runs/([^/:]+)(:terminate)?", path):
            if match.group(1) not in state.runs:
                return 404, {"error": f"Run {match.group(1)} not found"}
            run = state.runs[match.group(1)]
            if match.group(2):
                run["state"] = "CANCELING"
            elif state.script:
                run.update(state.script.popleft())
            return 200, run
        return 404, {"error": path}

    def _listed(self, query: Object) -> Object:
        """A page of runs: filtered without regard to case, as the real server's SQL does, and newest first."""
        assert query["sort_by"] == "created_at desc"
        runs = sorted(self.state.runs.values(), key=lambda run: str(run["created_at"]), reverse=True)
        for wanted in json.loads(query["filter"])["predicates"] if query.get("filter") else []:
            value = wanted["stringValue"].lower()
            if wanted["operation"] == "EQUALS":
                runs = [run for run in runs if run[wanted["key"]].lower() == value]
            else:
                assert wanted["operation"] == "IS_SUBSTRING"
                runs = [run for run in runs if value in run[wanted["key"]].lower()]
        start = int(query.get("page_token") or 0)
        end = start + int(query["page_size"])
        return {"runs": runs[start:end], **({"next_page_token": str(end)} if end < len(runs) else {})}

    def _file(self, body: bytes) -> bytes:
        """The only part of a multipart body."""
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = BytesParser().parsebytes(header + body).get_payload()
        content: bytes = part.get_payload(decode=True)
        return content
