"""A real S3 server (SeaweedFS) for the time of a block."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from tests.support.ports import free_ports

ACCESS_KEY, SECRET_KEY = "vlm-test", "vlm-test-secret"
_START_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where the server answers.

    Attributes:
        url: Its endpoint.
        client: A boto3 client with the right credentials.
    """

    url: str
    client: Any

    def environment(self) -> dict[str, str]:
        """Return the environment variables that lead to it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


SMALL_VOLUMES = ("-master.volumeSizeLimitMB=64", "-volume.max=20")


@contextmanager
def s3_server(folder: Path, flags: Sequence[str] = SMALL_VOLUMES) -> Iterator[S3Server]:
    """Run a server that stores its objects below a folder.

    Args:
        folder: The folder.
        flags: How it lays its objects out.
    """
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = free_ports(8)
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports_of = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *ports_of,
        *flags,
        "-s3",
        f"-s3.port={ports[6]}",
        f"-s3.port.grpc={ports[7]}",
        f"-s3.config={folder / 's3.json'}",
        # Catalogs that nothing here asks, on ports that another server of this machine may have.
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    ]
    url = f"http://127.0.0.1:{ports[6]}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 3}, connect_timeout=5, read_timeout=120),
    )
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(client, process, folder / "log.txt")
            yield S3Server(url, client)
        finally:
            process.kill()  # its data goes too, and an orderly end takes half a minute
            process.wait()


def _wait(client: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {error}\n{log.read_text()[-3000:]}") from error
            time.sleep(0.2)
