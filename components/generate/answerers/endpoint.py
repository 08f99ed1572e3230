"""A server answers: any endpoint of OpenAI's shape, asked by several threads at a time."""

import base64
import contextlib
import io
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from components.data.conversation import parts_in_order
from components.data.pictures import Pictures
from components.errors import ConfigurationError, InputError, StageError
from components.generate.answerer import Answer, Answerer, Asking
from components.generate.chat_completions import ChatClient, request_body
from components.generate.config import CallsConfig, GenerateConfig
from components.generate.controls import BLANK_SIDE, blank_like
from components.generate.requests import BLANK, ModelInput
from components.published_model.config import Endpoint
from components.published_model.stage import ENDPOINT_FILE
from components.storage.config import TransferConfig
from components.storage.faults import Faults
from components.storage.remote import PassingFault

_SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png"}
_ORIENTATION = 0x0112  # EXIF; our own models are shown the picture turned by it, and not every server does so
_Result = tuple[int, list[Answer]] | BaseException | None  # answers; or a thread's end, with what ended it


@contextlib.contextmanager
def open_endpoint(folder: Path, config: GenerateConfig) -> Iterator[Answerer]:
    """Read where an endpoint is; nothing is sent before the first question."""
    path = folder / ENDPOINT_FILE
    try:
        endpoint = Endpoint.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} does not describe an endpoint: {error}. Delete {folder} and run again.") from error
    if config.sampling.top_k:
        raise ConfigurationError(
            "sampling.top_k is not part of OpenAI's API. Leave it out, or put what the server calls it into the endpoint's body."
        )
    yield EndpointAnswerer(endpoint)


class EndpointAnswerer(Answerer):
    """An endpoint.

    Args:
        endpoint: Where it is, and its model's name.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def batches(self, inputs: Sequence[ModelInput], asking: Asking) -> list[list[int]]:
        """Ask and write down every question by itself."""
        return [[index] for index in range(len(inputs))]

    def answer(
        self, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: Pictures
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answer in whatever order the server does; after a lasting fault nothing more is asked, but what is under way counts."""
        calls = _Calls(self._endpoint, batches, asking, pictures)
        try:
            yield from calls.results()
        finally:
            calls.stop()


class _Calls:
    """Threads that ask; the process may end before they do.

    Args:
        endpoint: The endpoint.
        batches: What is asked.
        asking: How it is asked.
        pictures: Gives the pictures.
    """

    def __init__(
        self, endpoint: Endpoint, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: Pictures
    ) -> None:
        self._endpoint, self._batches, self._asking, self._pictures = endpoint, batches, asking, pictures
        self._key = os.environ.get(asking.calls.key_variable, "").strip()
        self._left: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        self._stop = threading.Event()
        for number in range(len(batches)):
            self._left.put(number)
        self._threads = min(asking.calls.concurrency, len(batches))
        for _ in range(self._threads):
            # Not of an executor: Python would wait for its threads, each for its server, after Ctrl-C.
            threading.Thread(target=self._run, daemon=True).start()

    def results(self) -> Iterator[tuple[int, list[Answer]]]:
        """Yield answered batches until no thread is left; then raise the first fault that ended one."""
        first: BaseException | None = None
        running = self._threads
        while running:
            result = self._results.get()
            if isinstance(result, BaseException):
                first = first or result
            elif result is not None:
                yield result
                continue
            running -= 1
        if first is not None:
            raise first

    def stop(self) -> None:
        """Ask nothing more."""
        self._stop.set()

    def _run(self) -> None:
        try:
            client = ChatClient(self._endpoint, self._key, self._asking.calls.timeout_s)
            while not self._stop.is_set():
                try:
                    number = self._left.get_nowait()
                except queue.Empty:
                    break
                self._results.put((number, [self._ask(client, shown) for shown in self._batches[number]]))
        except BaseException as error:
            self._stop.set()
            self._results.put(error)
        else:
            self._results.put(None)

    def _ask(self, client: ChatClient, shown: ModelInput) -> Answer:
        faults = Faults(client.shown, _patience(self._asking.calls), self._stop)
        text = "" if self._asking.prompt_format == "plain" else shown.prompt
        parts = parts_in_order(text, len(shown.pictures))
        urls = [_data_url(name, self._pictures) for name in shown.pictures]
        body = request_body(self._endpoint, self._asking, parts, urls, shown.draws)
        while not self._stop.is_set():
            try:
                return client.ask(body)
            except PassingFault as fault:
                faults.met(fault)
        raise StageError(f"{client.shown}: no longer asked, since another question could not be answered.")


def _patience(calls: CallsConfig) -> TransferConfig:
    return TransferConfig(attempts=calls.attempts, first_wait_s=calls.first_wait_s, timeout_s=calls.timeout_s)


def _data_url(name: str, pictures: Pictures) -> str:
    """Return a picture as it is sent: its file where any reader sees in it what our own models are shown, else as PNG."""
    if name == BLANK:
        return _as_png(blank_like((BLANK_SIDE, BLANK_SIDE)))
    content = pictures.read(name)
    try:
        with Image.open(io.BytesIO(content)) as found:
            kind = _SENT_AS_THEY_ARE.get(found.format or "")
            plain = found.mode in ("RGB", "L") and found.getexif().get(_ORIENTATION, 1) == 1
        if kind and plain:
            pictures.open(name)  # a file that is cut off is an error here, not an answer about half a picture
            return _url(kind, content)
    except (OSError, SyntaxError):
        pass
    return _as_png(pictures.open(name))


def _as_png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return _url("image/png", buffer.getvalue())


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
