"""OpenAI's chat completions: what a question looks like on the wire, and what an answer is.

The shapes are those of https://platform.openai.com/docs/api-reference/chat, as vLLM, SGLang, TGI, llama.cpp and Ollama serve them too. A
fault that may pass (busy, a fault of the server, no answer in time, a cut answer) is a `PassingFault`; anything else ends the
generation.
"""

import hashlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from pydantic import BaseModel, ValidationError
from requests.auth import AuthBase

from components.errors import ConfigurationError, InputError, StageError, first_problem
from components.generate.answerer import Answer, Asking
from components.published_model.config import Endpoint
from components.storage.remote import PassingFault, retry_after_seconds
from components.storage.uri import shown_uri, without_secrets

_PATH = "/chat/completions"
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_LASTING = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}
_SPENT = "insufficient_quota"  # OpenAI's 429 that no waiting helps against
_FILTERS = {"content_filter", "content_policy_violation"}
_SHOWN = 300


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Key(AuthBase):
    """Sends a key, or none: never what ~/.netrc has for the host."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class ChatClient:
    """Asks an endpoint; each thread has a client of its own.

    Args:
        endpoint: Where the model is, and its name.
        key: API key; empty for none. It is sent to that address alone and never shown.
        timeout_s: Seconds without an answer after which a request counts as lost.
    """

    def __init__(self, endpoint: Endpoint, key: str, timeout_s: float) -> None:
        self._endpoint, self._key, self._timeout_s = endpoint, key, timeout_s
        self._session = requests.Session()
        self._session.auth = _Key(key)
        parts = urlsplit(endpoint.url)
        path = parts.path.rstrip("/").removesuffix(_PATH)
        self._url = urlunsplit((parts.scheme, parts.netloc, path + _PATH, parts.query, ""))
        self.shown = shown_uri(self._url)

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a request.

        Raises:
            PassingFault: Another attempt may go better.
            InputError: The server refuses the request, the key or the model's name.
            ConfigurationError: The address can't work.
            StageError: The server answers something else than a completion.
        """
        try:
            # Not followed: a key is for the host that was named.
            response = self._session.post(self._url, json=body, timeout=self._timeout_s, allow_redirects=False)
            content = response.content
        except requests.exceptions.SSLError as error:
            raise ConfigurationError(f"{self.shown}: no trusted connection: {self._hidden(error)}") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise ConfigurationError(f"{self.shown} or its key can't be used: {self._hidden(error)}") from None
        except requests.exceptions.RequestException as error:
            raise PassingFault(self._hidden(error)) from None
        if response.status_code != HTTPStatus.OK:
            return self._refused(response)
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError as error:
            raise PassingFault(f"the answer is no chat completion ({first_problem(error)})") from None
        return self._answer(completion)

    def _answer(self, completion: _Completion) -> Answer:
        if not completion.choices:
            raise PassingFault("the answer has no choices")
        choice, usage = completion.choices[0], completion.usage or _Usage()
        if choice.finish_reason in _FILTERS:
            return self._filtered("the answer was cut by a content filter")
        said = choice.message.content
        text = said if isinstance(said, str) else "".join(part.text for part in said or ())
        # What a model says instead of an answer is its answer.
        return Answer(text or choice.message.refusal or "", usage.completion_tokens, usage.prompt_tokens)

    def _refused(self, response: requests.Response) -> Answer:
        status, (code, said) = response.status_code, _error_of(response)
        text = f"the server answered {status} {response.reason}" + (f" ({self._hidden(said)})" if said else "")
        if code in _FILTERS:
            return self._filtered(text)
        passing = status in _PASSING or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LASTING)
        if passing and code != _SPENT:
            raise PassingFault(text, retry_after_seconds(response.headers.get("Retry-After")))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise InputError(
                f"No access to {self.shown}: {text}. Put a key that may use {self._endpoint.name} into the environment variable that "
                "calls.key_variable names."
            )
        if status == HTTPStatus.NOT_FOUND:
            raise InputError(
                f"{self.shown} or its model {self._endpoint.name!r} does not exist: {text}. The address ends before {_PATH}, as "
                "https://HOST/v1."
            )
        raise InputError(f"{self.shown} refuses the request: {text}.")

    def _filtered(self, text: str) -> Answer:
        if self._endpoint.filtered == "empty":
            print(f"{self.shown}: {text}; counts as an empty answer", flush=True)
            return Answer("", 0)
        raise StageError(
            f"{self.shown}: {text}. With `filtered: empty` in the endpoint's settings such questions count as answered by nothing."
        )

    def _hidden(self, error: object) -> str:
        """Return a message without the key and other secrets, and not too long."""
        text = without_secrets(f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error))
        text = text.replace(self._key, "***") if self._key else text
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def request_body(
    endpoint: Endpoint, asking: Asking, parts: Sequence[str | None], pictures: Sequence[str], draws: str = ""
) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        endpoint: The model.
        asking: How all questions are asked.
        parts: The human turn in order: texts, and None for a picture.
        pictures: Their data URLs.
        draws: Id of the sample whose draws are used, where tokens are drawn.
    """
    urls = iter(pictures)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": next(urls)}} if part is None else {"type": "text", "text": part}
        for part in parts
    ]
    body: dict[str, Any] = {
        "model": endpoint.name,
        "messages": [{"role": "user", "content": content}],
        endpoint.token_limit: asking.max_new_tokens,
        "temperature": asking.sampling.temperature,
    }
    if not asking.sampling.greedy:
        digest = hashlib.sha256(f"{asking.sampling.seed} {draws}".encode()).digest()
        body |= {"top_p": asking.sampling.top_p, "seed": int.from_bytes(digest[:4], "big") >> 1}
    return {name: value for name, value in {**body, **endpoint.body}.items() if value is not None}


def _error_of(response: requests.Response) -> tuple[str, str]:
    """Return code and message of an error, as far as the server gives them in OpenAI's shape; else its text."""
    try:
        found = response.json()
    except ValueError:
        return "", response.text.strip()
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return "", str(error)
    return str(error.get("code") or error.get("type") or ""), str(error.get("message", ""))
