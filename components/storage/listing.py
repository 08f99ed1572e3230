"""From a URI to the files behind it, whatever its scheme."""

import hashlib
from collections.abc import Sequence

from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.remote import Listing, RemoteFile
from components.storage.uri import SourceUri


def list_source(uri: SourceUri, config: TransferConfig, known: Sequence[str] = ()) -> Listing:
    """List the files behind a URI.

    Args:
        uri: A file or a folder.
        config: How to ask.
        known: Names of the files where the scheme can't list a folder (a lock file has them).

    Returns:
        The file under its own name, or the folder's files under their paths below it.

    Raises:
        InputError: There is nothing of that name, or access is refused.
        ConfigurationError: The URI or the environment can't work.
        StageError: The server could not be reached.
    """
    # Imported here: boto3 and huggingface_hub are slow to import, and few runs need both.
    if uri.scheme == "file":
        from components.storage.local_source import list_local

        listing = list_local(uri)
    elif uri.scheme == "s3":
        from components.storage.s3_source import list_s3

        listing = list_s3(uri, config)
    elif uri.scheme == "hf":
        from components.storage.hub_source import list_hub

        listing = list_hub(uri, config)
    else:
        from components.storage.http_source import list_http

        listing = list_http(uri, config, tuple(known))
    names = [file.name for file in listing.files]
    if repeated := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise InputError(f"{listing.shown} lists {sorted(repeated)[0]!r} twice.")
    return listing


def listing_identity(files: Sequence[RemoteFile]) -> str:
    """Return a string that changes when a file is added, removed or changed at the source."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.facts.size}\0{file.facts.validator}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
