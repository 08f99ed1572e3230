"""What kubectl is configured with, for a server of the tests."""

from pathlib import Path

import yaml


def write_kubeconfig(path: Path, url: str, namespace: str = "vlm") -> None:
    """Write a configuration with one cluster.

    Args:
        path: The file.
        url: The API server.
        namespace: That of the context.
    """
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "t"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }
    path.write_text(yaml.safe_dump(content))
