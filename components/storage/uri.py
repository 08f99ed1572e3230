"""Source URIs: what they name, and what of them may be shown.

A URI may hold a secret: a password before the host, a signature in the query. Such a URI never stands in the settings,
which are stored and shown in many places, but in an environment variable that the settings name: `${DATA_URL}`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from pydantic import AfterValidator

from components.errors import ConfigurationError


@dataclass(frozen=True)
class Scheme:
    """A kind of source.

    Attributes:
        lists: The function that lists what is behind a URI, as "module:function": imported when it is needed, since
            boto3 and huggingface_hub are slow to import and few runs need both. It takes the URI, the transfer's settings
            and the names that a lock file knows, and returns a `components.storage.remote.Listing`.
        example: What such a URI looks like, for errors.
    """

    lists: str
    example: str = ""


SCHEMES = {
    "file": Scheme("components.storage.local_source:list_local", "file:///PATH"),
    "https": Scheme("components.storage.http_source:list_http", "https://HOST/PATH"),
    "http": Scheme("components.storage.http_source:list_http"),
    "s3": Scheme("components.storage.s3_source:list_s3", "s3://BUCKET/KEY"),
    "hf": Scheme("components.storage.hub_source:list_hub", "hf://ORG/MODEL or hf://datasets/ORG/NAME"),
}

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEY = re.compile(
    r"signature|credential|token|secret|passw|auth|api-?_?key|access-?_?key|^(sig|key|policy)$", re.IGNORECASE
)
_USER_INFO = re.compile(r"(\w+://)[^/@\s'\"]*@")
_QUERY = re.compile(r"\?[^\s'\")>]+")


@dataclass(frozen=True)
class SourceUri:
    """A source URI, environment variables filled in.

    Attributes:
        full: The whole URI; may hold secrets.
        shown: What messages, manifests and keys may hold: without user, password, query and fragment.
        scheme: One of `SCHEMES`.
    """

    full: str = field(repr=False)
    shown: str
    scheme: str

    @property
    def path(self) -> Path:
        """Path of a `file://` URI."""
        return Path(unquote(urlsplit(self.full).path))

    @property
    def name(self) -> str:
        """Last part of the path; empty where the URI ends with a slash."""
        name = self.shown.rpartition("/")[2]
        return unquote(name) if self.scheme in ("file", "http", "https") else name


def read_uri(text: str, setting: str, also: Sequence[str] = ()) -> SourceUri:
    """Fill in environment variables and check a URI.

    Args:
        text: The URI as in the settings; `${NAME}` stands for an environment variable.
        setting: Name of the setting, for errors.
        also: What else the setting may be, for errors.

    Raises:
        ConfigurationError: A variable is not set, or the URI is not one that can be fetched.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigurationError(f"{setting} names the environment variable {match[1]}, which is not set here.")
        return os.environ[match[1]]

    full = _VARIABLE.sub(value, text)
    shown = shown_uri(full)
    scheme = urlsplit(full).scheme
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"{setting} is {shown!r}: expected {', '.join([*also, *(known.example for known in SCHEMES.values() if known.example)])}."
        )
    uri = SourceUri(full, shown, scheme)
    parts = urlsplit(shown)
    if scheme == "file" and (parts.netloc not in ("", "localhost") or not uri.path.is_absolute()):
        raise ConfigurationError(f"{setting} is {shown!r}: expected file:///ABSOLUTE/PATH with three slashes.")
    if scheme != "file" and not parts.netloc:
        raise ConfigurationError(f"{setting} is {shown!r}: nothing stands after {scheme}://.")
    return uri


def shown_uri(text: str) -> str:
    """Return a URI without what may be secret: user, password, query, fragment."""
    parts = urlsplit(text)
    if parts.scheme in ("hf", "s3"):
        return text  # `@` stands before a revision; a key may hold `?` and `#`
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """Return a library's message with the secret parts of any URI in it removed."""
    return _QUERY.sub("", _USER_INFO.sub(r"\1", text))


def _meant(text: str) -> str:
    """Return what a setting without a scheme was most likely meant to be."""
    path = Path(text).expanduser()
    if path.is_absolute() or path.exists() or text.startswith(("./", "../", "~")):
        return f"write {path.absolute().as_uri()} for that file or folder"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"write hf://{text} or hf://datasets/{text} for what the Hugging Face hub has, file:///PATH for a folder"
    return "write file:///PATH for a file or folder"


def _check_scheme(text: str) -> str:
    """Refuse a setting that names a source without a scheme."""
    if text and "://" not in text and not _VARIABLE.match(text):
        raise ValueError(f"{shown_uri(text)!r} has no scheme: {_meant(text)}")
    return text


def _refuse_secrets(text: str) -> str:
    """Refuse a setting that holds a secret itself; variables that name one are kept as they are."""
    parts = urlsplit(text)
    if parts.scheme in ("hf", "s3"):
        return text
    literal = _VARIABLE.sub("", parts.netloc.rpartition("@")[0])
    keys = [key for key, value in parse_qsl(parts.query) if _VARIABLE.sub("", value) and _SECRET_KEY.search(key)]
    if literal.strip(":") or keys:
        # Not a ValueError: pydantic would print the value.
        raise ConfigurationError(
            f"The source {shown_uri(text)} holds a password or a signature. Settings are stored and shown: put the whole "
            "URI into an environment variable of the download task, and name that: ${DATA_URL}."
        )
    return text


Address = Annotated[str, AfterValidator(_refuse_secrets)]
"""A setting that holds a URI of any kind."""

Source = Annotated[str, AfterValidator(_refuse_secrets), AfterValidator(_check_scheme)]
"""A setting that holds a source URI."""
