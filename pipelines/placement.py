"""Where a task of the DAG runs on a cluster: image, resources, nodes, volumes, secrets.

Without effect in local runs, but for one thing: a task that asks for GPUs must not run on CPU cores there either.
"""

from kfp import dsl, kubernetes

from components.device import DEVICE_VARIABLE
from components.images import IMAGE_USER
from pipelines.config import RunConfig, setting
from pipelines.stages import Place, Stage

_RETRY_WAIT = "60s"


def place(task: dsl.PipelineTask, stage: Stage, config: RunConfig, label: str = "") -> dsl.PipelineTask:
    """Place a stage's task where the stage's row says, name it for the UI, and return it.

    Args:
        task: The task.
        stage: The stage's row.
        config: The run's configuration.
        label: The task's name in the UI; without one the stage's.
    """
    task.set_display_name(label or stage.label)
    cluster = config.cluster
    if stage.place is Place.BOOKS:
        _place(task, config, cluster.cpu_image, cluster.launcher_cpu, cluster.launcher_memory)
    elif stage.place is Place.CPU:
        _place(task, config, cluster.cpu_image, cluster.cpu, cluster.memory)
    elif stage.place is Place.TRAINING and setting(config, f"{stage.settings}.launch.backend") != "local":
        _on_launcher(task, config)
    else:
        _on_gpu(task, config)
    if stage.deadline_s is not None and cluster.pvc:
        kubernetes.set_timeout(task, stage.deadline_s)
    return task


def _on_launcher(task: dsl.PipelineTask, config: RunConfig) -> None:
    """Place a task that submits and follows a training job, whose own pods have the GPUs.

    A launcher that is lost costs nothing: the next try finds its job again.
    """
    cluster = config.cluster
    _place(task, config, cluster.cpu_image, cluster.launcher_cpu, cluster.launcher_memory)
    _retry(task, config)


def _on_gpu(task: dsl.PipelineTask, config: RunConfig) -> None:
    """Place a task that trains or generates in its own pod.

    It goes to GPU nodes, or, when `cluster.gpus` is 0, in the CPU image to any node.
    """
    cluster = config.cluster
    _place(task, config, cluster.training_image, cluster.gpu_cpu, cluster.gpu_memory)
    if cluster.gpus:
        task.set_accelerator_type(cluster.accelerator).set_accelerator_limit(cluster.gpus)
        task.set_env_variable(DEVICE_VARIABLE, "cuda")
        # A lost node is no reason to lose a run of days: the stage goes on where it was.
        _retry(task, config)
    if cluster.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=cluster.shared_memory)
    for name, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, name, value)
    for toleration in cluster.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key or None,
            operator=toleration.operator,
            value=toleration.value or None,
            effect=toleration.effect or None,
        )
    if "nodeAffinity" in cluster.affinity:
        kubernetes.add_node_affinity_json(task, cluster.affinity["nodeAffinity"])


def _place(task: dsl.PipelineTask, config: RunConfig, image: str, cpu: str, memory: str) -> None:
    cluster = config.cluster
    # Finished work is found by its content in the workspace; KFP's cache would also skip work whose folder is gone.
    task.set_caching_options(False)
    task.set_container_image(image)
    if cpu:
        task.set_cpu_request(cpu)
    if memory:
        task.set_memory_request(memory)
    if cluster.pvc:
        kubernetes.mount_pvc(task, cluster.pvc, str(config.workspace))
        # KFP drops capabilities and sets the seccomp profile; whom it runs as is all that pod security `restricted` still lacks.
        kubernetes.set_security_context(task, run_as_user=IMAGE_USER, run_as_group=IMAGE_USER, run_as_non_root=True)
        for name, value in cluster.environment.items():
            task.set_env_variable(name, value)
    if cluster.image_pull_policy:
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret.secret, {secret.key: secret.variable}, optional=secret.optional)


def _retry(task: dsl.PipelineTask, config: RunConfig) -> None:
    if config.cluster.retries:
        task.set_retry(config.cluster.retries, backoff_duration=_RETRY_WAIT)
