"""Stages in containers: exit codes are believed, nothing is left behind. Runs where a Docker daemon is or can be started."""

import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException

from components.errors import ConfigurationError
from components.runs.folder import RunFolder
from pipelines import docker_runner
from pipelines.docker_runner import end_containers, run_container, use_docker

IMAGE = "vlm-test/shell:1"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """A client of the daemon that is here, else of one that is started for these tests."""
    daemon = None
    if not answers():
        folder = tmp_path_factory.mktemp("docker")
        daemon = start_daemon(folder)
    client = docker.from_env()
    try:
        client.api.import_image_from_data(shell_image(tmp_path_factory.mktemp("image")), "vlm-test/shell", "1")
        yield client
    finally:
        client.images.remove(IMAGE, force=True)
        client.close()
        if daemon is not None:
            daemon.terminate()
            daemon.wait()
            del os.environ["DOCKER_HOST"]
            # The daemon leaves it mounted, and pytest could not remove the folder.
            subprocess.run(["umount", folder / "exec" / "netns" / "default"], check=False, capture_output=True)


def answers() -> bool:
    try:
        client = docker.from_env()
        client.ping()
        client.close()
    except DockerException:
        return False
    return True


def start_daemon(folder: Path) -> "subprocess.Popen[bytes]":
    if shutil.which("dockerd") is None or os.getuid() != 0:
        pytest.skip("no Docker daemon answers, and none can be started (no dockerd, or not root)")
    socket = f"unix://{folder}/socket"
    options = {"host": socket, "data-root": folder / "data", "exec-root": folder / "exec", "pidfile": folder / "pid"}
    command = [
        "dockerd",
        *(f"--{name}={value}" for name, value in options.items()),
        "--bridge=none",
        "--iptables=false",
    ]
    with open(folder / "log", "wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    os.environ["DOCKER_HOST"] = socket
    end = time.monotonic() + 20
    while time.monotonic() < end and daemon.poll() is None:
        if answers():
            return daemon
        time.sleep(0.2)
    daemon.terminate()
    del os.environ["DOCKER_HOST"]
    pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-300:]}")


def shell_image(folder: Path) -> bytes:
    """An image of this machine's own shell, since nothing can be pulled in a test."""
    files = {"/bin/sh", "/bin/sleep"}
    for program in sorted(files):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        files |= {word for word in listed.split() if word.startswith("/")}
    with tarfile.open(folder / "image.tar", "w") as archive:
        for name in sorted(files):
            archive.add(os.path.realpath(name), arcname=name.lstrip("/"))
    return (folder / "image.tar").read_bytes()


def run(client: docker.DockerClient, command: str, **options: Any) -> int:
    return run_container(client, IMAGE, ["/bin/sh", "-c", command], {}, network_mode="host", **options)


def left_over(client: docker.DockerClient) -> list[Any]:
    return list(client.containers.list(all=True, filters={"ancestor": IMAGE}))


def test_failing_container_is_never_a_success(client: docker.DockerClient, capfd: pytest.CaptureFixture[str]) -> None:
    """KFP's own runner took 2 to 8 of 40 for successes."""
    assert [run(client, "exit 3") for _ in range(10)] == [3] * 10
    assert run(client, "echo out; echo err >&2; exit 0") == 0
    captured = capfd.readouterr().out
    assert "out\n" in captured
    assert "err\n" in captured
    assert not left_over(client)


def test_kfp_believes_the_exit_code(client: docker.DockerClient, tmp_path: Path) -> None:
    from kfp import dsl
    from kfp.local import config, docker_task_handler

    original, instance = docker_task_handler.run_docker_container, config.LocalExecutionConfig.instance
    try:
        use_docker(RunFolder(tmp_path, "run-1"))

        @dsl.container_component
        def writes(path: str, code: int):  # type: ignore[no-untyped-def]
            return dsl.ContainerSpec(
                image=IMAGE, command=["/bin/sh", "-c"], args=['echo "$VLM_RUN_ID" > "$0"; exit "$1"', path, code]
            )

        writes(path=str(tmp_path / "good"), code=0)
        assert (tmp_path / "good").read_text() == "run-1\n", "the workspace is the same in the container"
        for _ in range(3):
            with pytest.raises(RuntimeError, match="FAILURE"):
                writes(path=str(tmp_path / "bad"), code=1)
    finally:
        docker_task_handler.run_docker_container, config.LocalExecutionConfig.instance = original, instance


def test_containers_of_an_interrupted_run_are_ended(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_runner, "_STOP_WAIT_S", 1)  # a sleeping first process is deaf to SIGTERM
    # Of one id: begun in the same second in two workspaces.
    folders = [RunFolder(tmp_path / workspace, "run-1").mark[1] for workspace in ("one", "two")]
    for folder in folders:
        client.containers.run(
            IMAGE, ["/bin/sleep", "60"], detach=True, network_mode="host", labels={"vlm-pipelines.run-folder": folder}
        )
    started = time.monotonic()
    end_containers(folders[0])
    assert time.monotonic() - started < 30
    (other,) = left_over(client)
    assert other.labels["vlm-pipelines.run-folder"] == folders[1]
    end_containers(folders[1])
    assert not left_over(client)


def test_no_docker_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    with pytest.raises(ConfigurationError, match="There is no Docker to run stages in"):
        use_docker(RunFolder(tmp_path, "run-1"))
    end_containers("run-1")
