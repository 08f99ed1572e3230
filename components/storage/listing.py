"""From a URI to the files behind it, whatever its scheme."""

import hashlib
import pkgutil
from collections.abc import Sequence

from components.errors import InputError
from components.storage.config import TransferConfig
from components.storage.remote import Listing, RemoteFile
from components.storage.uri import SCHEMES, SourceUri


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
    listing: Listing = pkgutil.resolve_name(SCHEMES[uri.scheme].lists)(uri, config, known)
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
