"""Settings of published models."""

import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.storage.config import TransferConfig
from components.storage.uri import Address, Source

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[^\s@]+)?")
_OWN_FIELDS = ("model", "messages", "stream", "n")


class Endpoint(BaseModel):
    """A model behind an API of OpenAI's shape (`POST URL/chat/completions`).

    Attributes:
        url: Where the API is, up to and with its version, as `http://vllm:8000/v1`. A key never stands in it.
        name: The model's name there.
        token_limit: What the request calls the most tokens of an answer; OpenAI's reasoning models know the longer name alone.
        body: More fields of every request, as `{top_k: 1}`; null leaves out a field that would be sent.
        filtered: What becomes of a question that the server refuses to pass on because of its content: "fail" ends the
            generation, "empty" counts as an empty answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Address = Field(min_length=1)
    name: str = Field(min_length=1)
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    body: dict[str, Any] = {}
    filtered: Literal["fail", "empty"] = "fail"

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST/PATH or https://HOST/PATH")
        return url

    @field_validator("body")
    @classmethod
    def _leaves_the_question_alone(cls, body: dict[str, Any]) -> dict[str, Any]:
        taken = [name for name in _OWN_FIELDS if name in body]
        if taken:
            raise ValueError(f"{taken[0]} is decided by what is asked")
        return body


class PublishedModel(BaseModel):
    """A model that others have trained; either `source` or `endpoint`.

    Attributes:
        source: A model that transformers' AutoModelForImageTextToText loads, from safetensors: `hf://ORG/NAME[@REVISION]`,
            `file:///FOLDER`, `s3://BUCKET/PREFIX`.
        trust_remote_code: Run the code that comes with the model. It can do whatever you can: name a revision that you have read.
        endpoint: A model that a server answers for.
        transfer: How files are fetched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source = ""
    trust_remote_code: bool = False
    endpoint: Endpoint | None = None
    transfer: TransferConfig = TransferConfig()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if bool(self.source) == (self.endpoint is not None):
            raise ValueError("expected a source or an endpoint, and not both")
        if self.trust_remote_code and not self.source:
            raise ValueError("trust_remote_code: an endpoint's code runs elsewhere")
        return self

    @property
    def name(self) -> str:
        """What people call it: ORG/NAME of the hub with the revision that was named, a folder's URI, or its name at its host."""
        if self.endpoint is not None:
            return f"{self.endpoint.name} at {urlsplit(self.endpoint.url).netloc}"
        return self.source.removeprefix("hf://")


def hub_source(text: str) -> str:
    """Return the URI of a model of the hub that is called by its id, `ORG/NAME[@REVISION]`; empty where the text is no id."""
    return f"hf://{text}" if _HUB_ID.fullmatch(text) else ""
