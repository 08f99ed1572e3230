"""`hf://`: repositories of the Hugging Face hub.

`hf://ORG/NAME` is a model, `hf://datasets/ORG/NAME` a dataset; `@REVISION` and a path may follow, as in
`hf://datasets/ORG/NAME@main/folder/file.json`. huggingface_hub reads the URI and lists the repository at one commit; the
bytes come by the same ranges, attempts and checks as from any web server, which its own downloader does not offer.
HF_ENDPOINT names another hub, HF_TOKEN the token for private and gated repositories.
"""

import os
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url, is_offline_mode, parse_hf_uri, set_client_factory
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HfUriError
from huggingface_hub.hf_api import RepoFile

from components.errors import ConfigurationError, InputError
from components.storage.config import TransferConfig
from components.storage.faults import patiently
from components.storage.http_source import HttpClient, HttpFile, ca_bundle
from components.storage.remote import FileFacts, Listing, PassingFault, check_status, stored_name
from components.storage.uri import SourceUri, without_secrets

DEFAULT_ENDPOINT = "https://huggingface.co"
_TYPES = {"model": "", "dataset": "datasets/"}


def list_hub(uri: SourceUri, config: TransferConfig, _known: Sequence[str] = ()) -> Listing:
    """List a repository at its present commit, or a folder or a file of it.

    Raises:
        InputError: There is nothing of that name, or access is refused.
        ConfigurationError: The URI is malformed, or the hub is switched off here.
    """
    try:
        parsed = parse_hf_uri(uri.full)
    except HfUriError as error:
        raise ConfigurationError(f"{uri.shown} is not a URI of the hub: {error}") from None
    if parsed.type not in _TYPES:
        raise ConfigurationError(
            f"{uri.shown} is a {parsed.type}: models (hf://ORG/NAME) and datasets (hf://datasets/ORG/NAME) can be fetched."
        )
    if is_offline_mode():
        raise ConfigurationError(
            f"{uri.shown} can't be fetched: HF_HUB_OFFLINE switches the hub off here. Unset it, or name a local copy."
        )
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
    token = get_token()
    api = HfApi(endpoint=endpoint, token=token or False)
    set_client_factory(lambda: _client(config))

    def ask() -> tuple[str, list[RepoFile]]:
        return _ask(api, parsed.type, parsed.id, parsed.revision, uri.shown)

    commit, found = patiently(ask, uri.shown, config)
    wanted = parsed.path_in_repo.strip("/")
    chosen = [item for item in found if item.path == wanted] or [
        item for item in found if not wanted or item.path.startswith(f"{wanted}/")
    ]
    if not chosen:
        raise InputError(
            f"{uri.shown} does not exist: the repository has no file or folder {wanted!r} at {commit[:12]}."
        )
    client = HttpClient(config)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    hint = _hint(parsed.id, endpoint)
    files = []
    for item in sorted(chosen, key=lambda item: item.path):
        below = item.path.removeprefix(f"{wanted}/") if wanted and item.path != wanted else item.path
        name = item.path.rpartition("/")[2] if item.path == wanted else below
        kind = None if parsed.type == "model" else parsed.type
        url = hf_hub_url(parsed.id, item.path, repo_type=kind, revision=commit, endpoint=endpoint)
        shown = f"hf://{_TYPES[parsed.type]}{parsed.id}@{commit[:12]}/{item.path}"
        # Files of a commit never change: its object id is the validator, whatever the servers behind say.
        facts = FileFacts(item.size, f"oid {item.lfs.sha256 if item.lfs else item.blob_id}")
        sha256 = item.lfs.sha256 if item.lfs else ""
        files.append(HttpFile(client, url, stored_name(name, uri.shown), shown, facts, headers, hint, sha256))
    below = f"/{wanted}" if wanted else ""
    return Listing(uri.shown, tuple(files), f"hf://{_TYPES[parsed.type]}{parsed.id}@{commit}{below}")


def _ask(api: HfApi, kind: Any, repository: str, revision: str | None, shown: str) -> tuple[str, list[RepoFile]]:
    """Return commit and files of a repository."""
    try:
        info = api.repo_info(repository, repo_type=kind, revision=revision)
        tree = api.list_repo_tree(repository, repo_type=kind, revision=info.sha, recursive=True)
        return str(info.sha), [item for item in tree if isinstance(item, RepoFile)]
    except GatedRepoError:
        raise InputError(f"No access to {shown}: the repository is gated. {_hint(repository, api.endpoint)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = _hint(repository, api.endpoint)
        if kind == "model":
            hint += " A dataset's URI begins with hf://datasets/."
        if status == 404:
            raise InputError(f"{shown} does not exist: there is no such {kind} or revision. {hint}") from None
        retry_after = error.response.headers.get("Retry-After") if error.response is not None else None
        check_status(status, shown, retry_after, hint)
        raise PassingFault(f"{type(error).__name__}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise PassingFault(without_secrets(f"{type(error).__name__}: {error}")) from None


def _hint(repository: str, endpoint: str) -> str:
    return (
        f"Accept the licence at {without_secrets(endpoint)}/{repository} if it asks for that, and set HF_TOKEN to a token that "
        "may read it. A wrong name gets the same answer."
    )


def _client(config: TransferConfig) -> httpx2.Client:
    return httpx2.Client(follow_redirects=True, timeout=config.timeout_s, verify=_certificates(ca_bundle()))


@cache
def _certificates(bundle: str) -> ssl.SSLContext:
    """Return whom to trust, read once: a list of repositories would read hundreds of certificates for each."""
    return ssl.create_default_context(cafile=bundle) if bundle else httpx2.create_ssl_context()
