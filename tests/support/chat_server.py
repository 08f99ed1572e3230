"""An endpoint of OpenAI's shape on this machine: a model of transformers behind HTTP, and the faults that such servers have.

The shapes are those of OpenAI's API reference (chat completions, errors, rate limits).
"""

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from tests.support.json_server import JsonHandler, JsonServer, Object

Answering = Callable[[Image.Image, str, int], tuple[str, int, int]]
"""From picture, text and most tokens to an answer, its tokens and those of the prompt."""


@dataclass(frozen=True)
class Fault:
    """What a server does instead of answering.

    Attributes:
        status: HTTP status; 0 to close the connection without a word.
        code: OpenAI's code of the error.
        message: Its message.
        headers: More headers.
        seconds: How long it says nothing first.
        body: What is sent instead of an error in OpenAI's shape.
    """

    status: int
    code: str = ""
    message: str = "as asked for"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    body: bytes | None = None


@dataclass
class ChatState:
    """What the server works on, and what it saw.

    Attributes:
        answering: The model.
        fault: From the number of a request, from 0, and its text to a fault, or None to answer.
        seconds: How long an answer takes at least.
        requests: Bodies of all requests.
        keys: Their Authorization headers.
        times: When they came.
        answered: How many got an answer.
        most: Most requests that were under way at the same time.
    """

    answering: Answering
    fault: Callable[[int, str], Fault | None] = lambda number, text: None
    seconds: float = 0.0
    requests: list[Object] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answered: int = 0
    most: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ChatHandler(JsonHandler):
    """`POST /v1/chat/completions`."""

    state: ChatState

    def serve(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state, request = self.state, json.loads(body)
        with state.lock:
            number = len(state.requests)
            state.requests.append(request)
            state.keys.append(self.headers.get("Authorization", ""))
            state.times.append(time.monotonic())
            state.under_way += 1
            state.most = max(state.most, state.under_way)
        try:
            if (method, path) != ("POST", "/v1/chat/completions"):
                self.answer(404, {"error": {"message": f"no {path}", "type": "invalid_request_error", "code": None}})
                return
            picture, text = _question(request)
            fault = state.fault(number, text)
            time.sleep(state.seconds if fault is None else fault.seconds)
            if fault is None:
                self._complete(request, picture, text)
            else:
                self._fail(fault)
        finally:
            with state.lock:
                state.under_way -= 1

    def _complete(self, request: Object, picture: Image.Image, text: str) -> None:
        most = request.get("max_tokens") or request["max_completion_tokens"]
        with self.state.lock:
            answer, tokens, prompt_tokens = self.state.answering(picture, text, most)
            self.state.answered += 1
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer, "refusal": None},
            "finish_reason": "length" if tokens == most else "stop",
        }
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        named = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"]}
        self.answer(200, {**named, "choices": [choice], "usage": usage})

    def _fail(self, fault: Fault) -> None:
        if not fault.status:
            self.close_connection = True
            return
        error = {"message": fault.message, "type": "error", "param": None, "code": fault.code or None}
        data = json.dumps({"error": error}).encode() if fault.body is None else fault.body
        self.send_response(fault.status)
        for name, value in {"Content-Type": "application/json", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class ChatServer(JsonServer):
    """The server; `state` may be changed while it runs."""

    def __init__(self, answering: Answering) -> None:
        self.state = ChatState(answering)
        super().__init__(ChatHandler, self.state)


def answering(model: Any, processor: Any) -> Answering:
    """Return what asks a model of transformers one question at a time, by its chat template."""

    def answer(picture: Image.Image, text: str, most: int) -> tuple[str, int, int]:
        content = [{"type": "image", "image": picture}, *([{"type": "text", "text": text}] if text else [])]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            found = model.generate(**inputs, max_new_tokens=most, do_sample=False)
        length = inputs["input_ids"].shape[1]
        new = found[0, length:]
        end = model.generation_config.eos_token_id
        return processor.decode(new, skip_special_tokens=True), int((new != end).sum()), length

    return answer


def _question(request: Object) -> tuple[Image.Image, str]:
    """Return the only picture and the text of a request; a request of another shape is an error of the test."""
    (message,) = request["messages"]
    assert message["role"] == "user"
    pictures = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    (picture,) = pictures
    kind, _, data = picture.partition(";base64,")
    assert kind in ("data:image/jpeg", "data:image/png")
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), "".join(texts)
