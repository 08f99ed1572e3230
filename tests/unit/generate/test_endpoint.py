"""Endpoints: a real server's answers, its faults, what it is told and what it is never told."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from components.context import RunContext
from components.data.pictures import Pictures
from components.errors import ConfigurationError, InputError, StageError, VlmError
from components.generate.answerer import Answer
from components.generate.answerers import endpoint
from components.generate.chat_completions import ChatClient
from components.generate.config import CallsConfig, GenerateConfig
from components.generate.journal import JOURNAL_FOLDER
from components.generate.stage import run_generate
from components.model.sampling_settings import Sampling
from components.published_model.config import Endpoint, PublishedModel
from components.published_model.stage import run_published_model
from components.stage.runner import StageOutput
from tests.support import published_models
from tests.support.chat_server import ChatServer, Fault, answering
from tests.support.evaluation_world import INTERLEAVED, SHORT_QUESTIONS, interleave, raw_dataset
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

COUNT = 7
KEY = "sk-very-secret"
CALLS = CallsConfig(concurrency=4, first_wait_s=0.01, timeout_s=20)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def raw(context: RunContext) -> Path:
    return raw_dataset(context, COUNT, side=48)


@pytest.fixture(scope="module")
def task(context: RunContext) -> str:
    path = context.workspace / "short_questions.yaml"
    path.write_text(SHORT_QUESTIONS)
    return str(path)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CALLS.key_variable, raising=False)


def describe(picture: Image.Image, text: str, most: int) -> tuple[str, int, int]:
    """Answer so that every question and picture has an answer of its own."""
    return f" {text[:12]} {sum(picture.resize((4, 4)).tobytes())}\n", 3, 20


@pytest.fixture
def server() -> Iterator[ChatServer]:
    running = ChatServer(describe)
    yield running
    running.close()


class Asked:
    """Asks a server from a workspace of its own."""

    def __init__(self, folder: Path, server: ChatServer, raw: Path, task: str) -> None:
        self.context = RunContext(run_id="t", run_name="t", workspace=folder)
        self.server, self.raw, self.task = server, raw, task

    def model(self, **changes: Any) -> Path:
        endpoint = Endpoint(**{"url": f"{self.server.url}/v1", "name": "small", **changes})
        return run_published_model(self.context, PublishedModel(endpoint=endpoint), "served").folder

    def run(self, calls: CallsConfig = CALLS, sampling: Sampling = Sampling(), **endpoint: Any) -> StageOutput:  # noqa: B008
        config = GenerateConfig(task=self.task, calls=calls, sampling=sampling)
        return run_generate(self.context, config, self.model(**endpoint), self.raw, 0)


@pytest.fixture
def asked(tmp_path: Path, server: ChatServer, raw: Path, task: str) -> Asked:
    return Asked(tmp_path / "workspace", server, raw, task)


def texts_of(output: StageOutput) -> list[str]:
    lines = (output.folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def test_a_served_model_answers_as_the_same_model_here(
    context: RunContext, raw: Path, task: str, tmp_path: Path
) -> None:
    folder = published_models.llava(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "here").folder
    here = run_generate(context, GenerateConfig(task=task, batch_size=5, max_new_tokens=8), model, raw, 0)
    running = ChatServer(answering(*published_models.reload(folder)))
    try:
        endpoint = Endpoint(url=f"{running.url}/v1/", name="small")
        served = run_published_model(context, PublishedModel(endpoint=endpoint), "served").folder
        there = run_generate(context, GenerateConfig(task=task, max_new_tokens=8, calls=CALLS), served, raw, 0)
    finally:
        running.close()
    assert texts_of(there) == texts_of(here)
    for fact in ("answers", "answer_tokens", "prompt_tokens", "samples_expected"):
        assert there.manifest.facts[fact] == here.manifest.facts[fact]
    assert there.manifest.facts["answers"] == len(running.state.requests)


def test_pictures_are_sent_where_their_marks_are(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = interleave(asked.raw, tmp_path / "interleaved")
    (tmp_path / "interleaved.yaml").write_text(INTERLEAVED)
    sent: list[list[dict[str, Any]]] = []

    def ask(client: object, body: dict[str, Any]) -> Answer:
        sent.append(body["messages"][0]["content"])
        return Answer("a", 1)

    monkeypatch.setattr(ChatClient, "ask", ask)
    calls = CallsConfig(concurrency=1)
    config = GenerateConfig(task=str(tmp_path / "interleaved.yaml"), calls=calls, controls=("none",))
    run_generate(asked.context, config, asked.model(), tmp_path / "interleaved", 0)
    texts = [[part.get("text") for part in content] for content in sent]
    assert texts == [
        ["which is ", None, " ? A ", None, "\nB red ", None, "\nC", None],
        ["is ", None, " red A yes\nB no"],
        [None, None, "are they A yes\nB no"],
    ]
    with Pictures(tmp_path / "interleaved") as pictures:
        for content, names in zip(sent, shown, strict=True):
            urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
            assert [base64.b64decode(url.partition(",")[2]) for url in urls] == [pictures.read(name) for name in names]


def test_what_is_sent(asked: Asked, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(CALLS.key_variable, KEY)
    state = asked.server.state
    state.seconds = 0.02
    output = asked.run(
        sampling=Sampling(temperature=0.7, top_p=0.9),
        token_limit="max_completion_tokens",
        body={"temperature": None, "repetition_penalty": 1.0},
    )
    assert len(state.requests) == 3 * COUNT
    assert state.most == CALLS.concurrency
    assert set(state.keys) == {f"Bearer {KEY}"}
    for request in state.requests:
        assert (request["model"], request["max_completion_tokens"], request["top_p"]) == ("small", 6, 0.9)
        assert request["repetition_penalty"] == 1.0
        assert not {"temperature", "max_tokens"} & set(request)
    assert len({request["seed"] for request in state.requests}) == COUNT
    # Nothing that is kept or shown has the key.
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    for path in asked.context.workspace.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert output.manifest.facts["answer_tokens"] == 3 * 3 * COUNT
    assert output.manifest.facts["prompt_tokens"] == 20 * 3 * COUNT
    # Otherwise called, it is the same work.
    assert asked.run(
        calls=CallsConfig(concurrency=1, key_variable="OTHER"),
        sampling=Sampling(temperature=0.7, top_p=0.9),
        token_limit="max_completion_tokens",
        body={"temperature": None, "repetition_penalty": 1.0},
    ).reused


PASSING = {
    "busy": Fault(429, "rate_limit_exceeded", headers={"Retry-After": "0"}),
    "fault of the server": Fault(500, "server_error"),
    "gateway's page": Fault(502, body=b"<html>bad gateway</html>"),
    "overloaded": Fault(503),
    "cut connection": Fault(0),
    "cut answer": Fault(200, body=b'{"choices": [{"message": {"content": "a'),
    "no choices": Fault(200, body=b'{"choices": []}'),
    "no answer in time": Fault(500, seconds=1.5),
}


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass_change_no_answer(asked: Asked, name: str) -> None:
    state = asked.server.state
    state.fault = lambda number, text: PASSING[name] if number % 5 == 1 else None
    calls = CALLS.model_copy(update={"timeout_s": 0.7 if name == "no answer in time" else 20.0})
    found = texts_of(asked.run(calls=calls))
    asked.server.state.fault = lambda number, text: None
    again = Asked(asked.context.workspace / "again", asked.server, asked.raw, asked.task)
    assert found == texts_of(again.run())
    assert len(set(found)) > COUNT


def test_a_busy_server_is_left_alone_as_long_as_it_asks(asked: Asked) -> None:
    state = asked.server.state
    state.fault = lambda number, text: Fault(429, headers={"Retry-After": "2"}) if number == 0 else None
    asked.run(calls=CALLS.model_copy(update={"concurrency": 1}))
    assert state.times[1] - state.times[0] >= 2
    assert state.requests[0] == state.requests[1]


LASTING = {
    "no access": (Fault(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"), InputError, "No access"),
    "no such model": (
        Fault(404, "model_not_found", "The model `small` does not exist"),
        InputError,
        "`small` does not",
    ),
    "too long": (Fault(400, "context_length_exceeded", "maximum context length is 8"), InputError, "length is 8"),
    "nothing left to pay with": (Fault(429, "insufficient_quota", "exceeded your quota"), InputError, "your quota"),
    "moved": (Fault(302, headers={"Location": "http://127.0.0.1:9/v1"}), InputError, "302"),
    "a filter": (Fault(400, "content_filter", "filtered"), StageError, "filtered: empty"),
}


@pytest.mark.parametrize("name", LASTING)
def test_faults_that_stay_end_the_generation_and_what_was_answered_is_kept(
    asked: Asked, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CALLS.key_variable, KEY)
    fault, kind, said = LASTING[name]
    state = asked.server.state
    calls: list[endpoint._Calls] = []
    begin = endpoint._Calls.__init__

    def kept(self: endpoint._Calls, *arguments: Any) -> None:
        calls.append(self)
        begin(self, *arguments)

    def met(number: int, text: str) -> Fault | None:
        if number > 9:  # asked beside the one that fails: answered when that is known, however busy the machine is
            assert calls[0]._stop.wait(timeout=60)
        return fault if number == 9 else None

    monkeypatch.setattr(endpoint._Calls, "__init__", kept)
    state.fault = met
    with pytest.raises(kind, match=said) as caught:
        asked.run(calls=CALLS.model_copy(update={"concurrency": 2}))
    state.fault = lambda number, text: None
    shown = capfd.readouterr()
    assert KEY not in f"{caught.value}{shown.out}{shown.err}"
    assert len(state.requests) < 3 * COUNT  # the rest is not asked in vain
    answered, before = state.answered, len(state.requests)
    assert 8 <= answered <= 10
    output = asked.run()
    assert len(texts_of(output)) == 3 * COUNT
    assert output.manifest.facts["answers_done_before"] == answered
    assert len(state.requests) - before == output.manifest.facts["answers"] - answered


def test_faults_without_end_are_given_up(asked: Asked) -> None:
    asked.server.state.fault = lambda number, text: Fault(503, message="warming up")
    with pytest.raises(StageError, match=r"gave up after 3 attempts.*503.*warming up"):
        asked.run(calls=CALLS.model_copy(update={"attempts": 3}))


def test_a_server_that_is_not_there(asked: Asked) -> None:
    asked.server.close()
    with pytest.raises(StageError, match="gave up after 2 attempts"):
        asked.run(calls=CALLS.model_copy(update={"attempts": 2}))


def test_a_filtered_question_may_count_as_answered_by_nothing(asked: Asked) -> None:
    cut = json.dumps({"choices": [{"message": {"content": "cut"}, "finish_reason": "content_filter"}]}).encode()
    faults = {3: Fault(400, "content_filter"), 4: Fault(200, body=cut)}
    asked.server.state.fault = lambda number, text: faults.get(number)
    found = texts_of(asked.run(calls=CALLS.model_copy(update={"concurrency": 1}), filtered="empty"))
    assert [row for row in range(COUNT) if not found[row]] == [3, 4]


def test_what_a_model_says_instead_is_its_answer(asked: Asked) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I can't."}
    parts = {"role": "assistant", "content": [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]}
    bodies = {0: message, 1: parts}
    asked.server.state.fault = lambda number, text: (
        Fault(200, body=json.dumps({"choices": [{"message": bodies[number]}]}).encode()) if number in bodies else None
    )
    found = texts_of(asked.run(calls=CALLS.model_copy(update={"concurrency": 1})))
    assert found[:2] == ["I can't.", "in parts"]


def test_netrc_is_not_asked(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    asked.run()
    assert set(asked.server.state.keys) == {""}


GENERATE = """
import sys
from pathlib import Path
from components.generate.config import GenerateConfig
from components.generate.stage import run_generate
from components.context import RunContext

context, config, model, raw = sys.argv[1:]
run_generate(
    RunContext.model_validate_json(context), GenerateConfig.model_validate_json(config), Path(model), Path(raw), 0
)
"""


def test_a_killed_generation_asks_again_only_what_was_not_answered(asked: Asked, tmp_path: Path) -> None:
    state = asked.server.state
    state.seconds = 0.1
    calls = CALLS.model_copy(update={"concurrency": 2})
    config = GenerateConfig(task=asked.task, calls=calls)
    context, model = asked.context, asked.model()
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATE, context.model_dump_json(), config.model_dump_json(), model, asked.raw],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    def has_answers() -> bool:
        assert process.poll() is None, "it ended before it could be killed"
        return state.answered >= 6

    wait_for(has_answers)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    (journal,) = context.workspace.rglob(f"{JOURNAL_FOLDER}/*.jsonl")
    kept, before = journal.read_bytes().count(b"\n"), len(state.requests)
    assert 4 <= kept < 3 * COUNT
    resumed = asked.run(calls=calls)
    assert len(state.requests) - before == resumed.manifest.facts["answers"] - kept
    assert resumed.manifest.facts["answers_done_before"] == kept
    assert texts_of(resumed) == texts_of(Asked(tmp_path / "other", asked.server, asked.raw, asked.task).run())


def test_a_process_without_the_heavy_libraries_is_enough(asked: Asked) -> None:
    code = GENERATE + "\nprint([name for name in ('torch', 'megatron', 'transformers') if name in sys.modules])"
    config = GenerateConfig(task=asked.task, calls=CALLS)
    arguments = [asked.context.model_dump_json(), config.model_dump_json(), str(asked.model()), str(asked.raw)]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "ftp://host/v1", "name": "a"}, "expected http://HOST/PATH"),
        ({"url": "host:8000", "name": "a"}, "expected http://HOST/PATH"),
        ({"url": "http://host/v1", "name": ""}, "at least 1 character"),
        ({"url": "http://host/v1", "name": "a", "body": {"messages": []}}, "messages is decided by what is asked"),
    ],
)
def test_endpoints_that_can_not_be_meant_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Endpoint.model_validate(settings)


@pytest.mark.parametrize("url", ["https://me:password@host/v1", "https://host/v1?api-key=abc"])
def test_a_secret_in_an_address_is_refused_unseen(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint(url=url, name="a")
    assert "password@" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"sampling": Sampling(temperature=1, top_k=3)}, "top_k is not part of OpenAI's API"),
        ({"processes_per_node": 2}, "calls.concurrency"),
        ({"tensor_parallel": 2}, "does not split"),
    ],
)
def test_settings_that_an_endpoint_can_not_follow_are_refused(
    asked: Asked, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(VlmError, match=complaint):
        run_generate(asked.context, GenerateConfig(task=asked.task, **settings), asked.model(), asked.raw, 0)
    assert not asked.server.state.requests
