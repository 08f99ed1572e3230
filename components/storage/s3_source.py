"""`s3://`: objects of Amazon S3 and of what speaks its protocol.

Endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), region (AWS_DEFAULT_REGION), credentials (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, the machine's role) and certificates (AWS_CA_BUNDLE) come from the
environment. Without any credentials requests are anonymous, as public buckets want them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    ResponseStreamingError,
    SSLError,
)

from components.errors import ConfigurationError, InputError, StageError
from components.storage.config import TransferConfig
from components.storage.faults import patiently
from components.storage.http_source import ca_bundle
from components.storage.remote import (
    CHUNK_BYTES,
    FileFacts,
    Listing,
    PassingFault,
    RemoteFile,
    check_status,
    stored_name,
)
from components.storage.uri import SourceUri, without_secrets

_EXPIRED = {"ExpiredToken", "RequestExpired", "InvalidToken"}


class S3Client:
    """Asks an S3 service, from several threads.

    Args:
        config: Number of connections, timeout.
    """

    def __init__(self, config: TransferConfig) -> None:
        with _translated("s3://"):
            session = boto3.session.Session()
            self.anonymous = session.get_credentials() is None
            self.api: Any = session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                verify=None if os.environ.get("AWS_CA_BUNDLE") else ca_bundle() or None,
                config=Config(
                    signature_version=botocore.UNSIGNED if self.anonymous else None,
                    max_pool_connections=config.connections,
                    connect_timeout=config.timeout_s,
                    read_timeout=config.timeout_s,
                    # Attempts are counted in one place (faults.py): none here.
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    response_checksum_validation="when_required",
                ),
            )

    @property
    def hint(self) -> str:
        """What to do where access is refused."""
        if self.anonymous:
            return "There are no credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)."
        return "Check the credentials of the environment, and AWS_ENDPOINT_URL_S3 for a service that is not Amazon's."


class S3File:
    """One object; see `RemoteFile`."""

    sha256 = ""

    def __init__(self, client: S3Client, bucket: str, key: str, name: str, size: int, etag: str) -> None:
        self._client, self._bucket, self._key = client, bucket, key
        self.name, self.shown = name, f"s3://{bucket}/{key}"
        self.facts = FileFacts(size, f"ETag {etag}")
        self._etag = etag

    def refresh(self) -> None:
        """Ask for the object's size and ETag again."""
        head = _head(self._client, self._bucket, self._key, self.shown)
        self._etag = head["ETag"]
        self.facts = FileFacts(head["ContentLength"], f"ETag {self._etag}")

    def read(self, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes of a range."""
        stop = (self.facts.size or 0) if end is None else end
        with _translated(self.shown, self._client.hint):
            answer = self._client.api.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{stop - 1}", IfMatch=self._etag
            )
            body = answer["Body"]
            try:
                received = 0
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    received += len(chunk)
                    yield chunk
            finally:
                body.close()
        if received != stop - start:
            raise PassingFault(f"the connection was cut after {received} of {stop - start} bytes")


def list_s3(uri: SourceUri, config: TransferConfig, _known: Sequence[str] = ()) -> Listing:
    """List an object, or the objects below a prefix.

    Raises:
        InputError: There is nothing of that name, or access is refused.
        ConfigurationError: The environment's AWS settings are incomplete.
    """
    client = S3Client(config)
    bucket, _, key = uri.full.removeprefix("s3://").partition("/")
    if key and not key.endswith("/"):
        head = patiently(lambda: _head_or_none(client, bucket, key, uri.shown), uri.shown, config)
        if head is not None:
            file = S3File(client, bucket, key, key.rpartition("/")[2], head["ContentLength"], head["ETag"])
            return Listing(uri.shown, (file,))
    prefix = f"{key.rstrip('/')}/" if key else ""
    found = patiently(lambda: _objects(client, bucket, prefix, uri.shown), uri.shown, config)
    files: list[RemoteFile] = [
        S3File(client, bucket, item["Key"], stored_name(name, uri.shown), item["Size"], item["ETag"])
        for item in found
        if (name := item["Key"].removeprefix(prefix)) and not name.endswith("/")
    ]
    if not files:
        raise InputError(f"{uri.shown} does not exist: there is neither an object of that name nor one below it.")
    return Listing(uri.shown, tuple(files))


def _objects(client: S3Client, bucket: str, prefix: str, shown: str) -> list[dict[str, Any]]:
    with _translated(shown, client.hint):
        pages = client.api.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", [])]


def _head(client: S3Client, bucket: str, key: str, shown: str) -> dict[str, Any]:
    with _translated(shown, client.hint):
        head: dict[str, Any] = client.api.head_object(Bucket=bucket, Key=key)
        return head


def _head_or_none(client: S3Client, bucket: str, key: str, shown: str) -> dict[str, Any] | None:
    with _translated(shown, client.hint):
        try:
            head: dict[str, Any] = client.api.head_object(Bucket=bucket, Key=key)
            return head
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise


@contextmanager
def _translated(shown: str, hint: str = "") -> Iterator[None]:
    """Raise botocore's errors as ours."""
    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        facts = error.response.get("ResponseMetadata", {})
        status = int(facts.get("HTTPStatusCode", 0))
        reason = f"{said.get('Code', '')} {said.get('Message', '')}".strip()
        if said.get("Code") in _EXPIRED:
            raise InputError(f"No access to {shown}: {reason}. {hint}") from None
        check_status(status, shown, facts.get("HTTPHeaders", {}).get("retry-after"), hint, reason)
        raise InputError(f"{shown} can't be fetched: {without_secrets(reason)}.") from None
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise PassingFault(str(error)) from None
        raise StageError(
            f"{shown}: the server's certificate is not trusted here. Name your organisation's certificates in AWS_CA_BUNDLE."
        ) from None
    except (ConnectionError, HTTPClientError, ResponseStreamingError) as error:
        raise PassingFault(str(error)) from None
    except BotoCoreError as error:
        raise ConfigurationError(f"{shown} can't be fetched: {without_secrets(str(error))}. {hint}".strip()) from None
