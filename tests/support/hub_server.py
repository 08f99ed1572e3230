"""The few routes of the Hugging Face hub that fetching needs, on the tests' web server."""

import hashlib
import json
from collections.abc import Mapping

from tests.support.web_server import WebServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def publish(
    web: WebServer,
    repository: str,
    files: Mapping[str, bytes],
    *,
    kind: str = "model",
    revisions: tuple[str, ...] = ("main",),
    token: str = "",
    large: int = 1000,
) -> None:
    """Serve a repository at one commit.

    Args:
        web: The web server; `HF_ENDPOINT` must name it.
        repository: "org/name".
        files: Path to content.
        kind: "model" or "dataset".
        revisions: Names that lead to the commit.
        token: Token that must be given; empty for a public repository.
        large: Size in bytes from which a file is kept in the large-file store: it has a SHA-256, and its URL leads to
            another server.
    """
    api = f"/api/{kind}s/{repository}"
    prefix = "" if kind == "model" else "/datasets"
    siblings = [{"rfilename": name} for name in files]
    info = json.dumps(
        {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": bool(token)}
    ).encode()
    for path in (api, *(f"{api}/revision/{revision}" for revision in (*revisions, COMMIT))):
        web.serve(path, info, ranges=False, bearer=token)
    tree = []
    for name, content in files.items():
        item: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        path = f"{prefix}/{repository}/resolve/{COMMIT}/{name}"
        if len(content) >= large:
            item["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            store = web.serve(f"/store/{hashlib.sha256(content).hexdigest()}", content)
            web.serve(path, b"", bearer=token, redirect=f"{store}?X-Amz-Signature=of-the-store")
        else:
            web.serve(path, content, bearer=token)
        tree.append(item)
    web.serve(f"{api}/tree/{COMMIT}", json.dumps(tree).encode(), ranges=False, bearer=token)
