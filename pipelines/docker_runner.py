"""Runs the tasks of a local run in containers, through KFP's DockerRunner.

KFP 2.17 removes a container before it asks for its exit code, and takes a container that is gone for one that succeeded: a
failed stage can pass. Here the exit code is read first.
"""

import os
from contextlib import suppress
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from components.errors import ConfigurationError
from components.runs.folder import KFP_WORKSPACE, RUN_ID_VARIABLE, RunFolder

_FOLDER_LABEL = "vlm-pipelines.run-folder"  # not the id: runs of two workspaces may have one
_SHARED_MEMORY = "2g"  # Docker's 64 MB kill loader workers
_STOP_WAIT_S = 10


def use_docker(run: RunFolder) -> None:
    """Let KFP execute pipelines of this process in containers that see the workspace as this machine does.

    Args:
        run: The run, whose folder every container carries; KFP keeps its artifacts there.

    Raises:
        ConfigurationError: There is no Docker here.
    """
    from kfp import local
    from kfp.local import docker_task_handler

    _connect().close()
    docker_task_handler.run_docker_container = run_container
    runner = local.DockerRunner(
        environment={RUN_ID_VARIABLE: run.run_id, "HOME": "/tmp", "USER": "vlm"},
        labels={_FOLDER_LABEL: run.mark[1]},
        mounts=[docker.types.Mount(str(run.workspace), str(run.workspace), type="bind")],
        network_mode="host",  # as processes here would have it: an MLflow server on localhost is reached
        shm_size=_SHARED_MEMORY,
        user=f"{os.getuid()}:{os.getgid()}",  # files belong to who started the run
        working_dir="/tmp",
    )
    pipeline_root = run.path / "kfp"
    scratch = pipeline_root / KFP_WORKSPACE
    scratch.mkdir(parents=True, exist_ok=True)  # Docker would make it, as root
    local.init(runner, pipeline_root=str(pipeline_root), workspace_root=str(scratch))


def run_container(
    client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
) -> int:
    """Run a container to its end, pass its output on, and return its exit code.

    The container is removed after its exit code is known, also when this process is interrupted.

    Args:
        client: Docker's client.
        image: Image name; pulled when it is not here.
        command: Command and arguments.
        volumes: What KFP mounts.
        **options: Options of `docker.containers.run`.
    """
    try:
        client.images.get(image)
    except ImageNotFound:
        print(f"pulling image {image}", flush=True)
        client.images.pull(image)
    container = client.containers.run(image, command, detach=True, volumes=volumes, **options)
    try:
        for chunk in container.logs(stream=True, follow=True):
            print(chunk.decode("utf-8", errors="replace"), end="", flush=True)
        return int(container.wait()["StatusCode"])
    finally:
        _remove(container)


def end_containers(run_folder: str) -> None:
    """Stop and remove every container of a run; nothing happens where there is no Docker.

    Args:
        run_folder: The value of the run's mark (`RunFolder.mark`).
    """
    try:
        client = docker.from_env()
        containers = client.containers.list(all=True, filters={"label": f"{_FOLDER_LABEL}={run_folder}"})
    except DockerException:
        return
    for container in containers:
        with suppress(NotFound, APIError):
            container.stop(timeout=_STOP_WAIT_S)
        _remove(container)
    client.close()


def _connect() -> docker.DockerClient:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise ConfigurationError(
            f"There is no Docker to run stages in: {error}. Start it, set DOCKER_HOST, or use --runner process."
        ) from None
    return client


def _remove(container: Container) -> None:
    with suppress(NotFound, APIError):  # another one was quicker
        container.remove(force=True)
