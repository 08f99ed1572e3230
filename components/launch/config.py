"""Settings of where and how wide a training runs; they never change what is trained."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.images import CPU_IMAGE, GPU_IMAGE

Backend = Literal["local", "pytorchjob", "trainjob"]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class LaunchConfig(BaseModel):
    """How many processes train, and where.

    Attributes:
        backend: "local" starts torchrun on this machine or in this container; "pytorchjob" and "trainjob" submit a job
            of Kubeflow's training operator (kubeflow.org/v1) or Trainer (trainer.kubeflow.org/v1alpha1).
        nodes: Number of machines; the local backend has one.
        processes_per_node: Processes on each machine, one per GPU (or one per CPU core without GPUs).
        tensor_parallel (processes): Processes that share one copy of the model; the rest is data parallel.
        threads_per_process: CPU threads of each process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Backend = "local"
    nodes: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    threads_per_process: int = Field(default=1, ge=1)

    @property
    def world_size(self) -> int:
        """Number of processes in all."""
        return self.nodes * self.processes_per_node

    @property
    def data_parallel(self) -> int:
        """Number of copies of the model."""
        return self.world_size // self.tensor_parallel

    @model_validator(mode="after")
    def _processes_fit(self) -> "LaunchConfig":
        if self.processes_per_node % self.tensor_parallel:
            raise ValueError(
                f"processes_per_node ({self.processes_per_node}) must be a multiple of tensor_parallel "
                f"({self.tensor_parallel}): tensor-parallel groups stay inside one node"
            )
        return self


class Toleration(BaseModel):
    """A Kubernetes toleration of the pods that need GPUs.

    Attributes:
        key: Taint key; empty matches all keys.
        operator: "Exists" or "Equal".
        value: Taint value for "Equal".
        effect: Taint effect; empty matches all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class SecretVariable(BaseModel):
    """An environment variable of every pod whose value stays in a Kubernetes Secret.

    Attributes:
        variable: Name of the environment variable, as `HF_TOKEN`.
        secret: Name of the Secret in the pods' namespace.
        key: Key within the Secret.
        optional: Pods start without it when the Secret or the key is missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    variable: VariableName
    secret: str = Field(min_length=1)
    key: str = Field(min_length=1)
    optional: bool = False


class JobConfig(BaseModel):
    """What a training job of a cluster gets beyond its pods' resources.

    Attributes:
        namespace: Namespace of the job; empty for that of the launching pod.
        queue: Kueue LocalQueue that admits the job; empty for no Kueue.
        priority_class: Kueue's WorkloadPriorityClass with a queue, else the pods' PriorityClass.
        service_account: Service account of the training pods; they get no API token.
        tries: Attempts in a row that may fail without a new checkpoint, for a reason that may pass; any number while
            checkpoints are made. Holds on this machine too.
        stall_s (s): Seconds without a line and without a step after which a training counts as stuck: where its ranks
            stand is shown, and it starts again from its newest checkpoint; none waits for ever. Holds on this machine too.
        backoff_limit: Pod restarts that the operator allows. Training is restarted as a whole by the launcher, since one
            restarted rank leaves the others hanging: so 0.
        clean_pods: Pods that the operator removes when the job is over; "Running" keeps those that tell why it failed.
        deadline_s (s): Seconds after which the operator ends the job; none by default, and time in a queue does not count.
        ttl_s (s): Seconds that a finished job stays; for ever by default.
        gang_scheduling: Ask a gang scheduler (Volcano, scheduler-plugins) to start all pods or none.
        environment: Environment variables of the training processes, as `NCCL_SOCKET_IFNAME` or `NCCL_IB_HCA`.
        resources: Additional resources of each pod, as `rdma/hca: "1"`.
        annotations: Annotations of each pod, as `k8s.v1.cni.cncf.io/networks` or Kueue's topology requests.
        lock_memory: Give the pods the capability IPC_LOCK, which InfiniBand's memory registration needs; only a namespace
            whose pod security is "privileged" takes such pods.
        grace_s (s): Seconds that a training gets to save a checkpoint on SIGTERM, on this machine too; a TrainJob's pods
            have those of its runtime, which must suffice.
        rendezvous_timeout_s (s): Seconds that a node waits for the others once its pod runs (slow image pulls).
        runtime: ClusterTrainingRuntime of a TrainJob (manifests/trainer/runtime.yaml); its replicated job and container must
            be named "node", and it must not restart pods by itself.
        poll_s (s): Seconds between two looks at the job.
        api_patience_s (s): Seconds that an unreachable Kubernetes API is waited for; the job goes on meanwhile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = ""
    queue: str = ""
    priority_class: str = ""
    service_account: str = ""
    tries: int = Field(default=3, ge=1)
    stall_s: float | None = Field(default=1800.0, gt=0)
    backoff_limit: int = Field(default=0, ge=0)
    clean_pods: Literal["Running", "All", "None"] = "Running"
    deadline_s: int | None = Field(default=None, ge=1)
    ttl_s: int | None = Field(default=None, ge=0)
    gang_scheduling: bool = False
    environment: dict[str, str] = {}
    resources: dict[str, str] = {}
    annotations: dict[str, str] = {}
    lock_memory: bool = False
    grace_s: int = Field(default=120, ge=1)
    rendezvous_timeout_s: int = Field(default=3600, ge=1)
    runtime: str = Field(default="vlm-torch", min_length=1)
    poll_s: float = Field(default=10.0, gt=0)
    api_patience_s: float = Field(default=3600.0, gt=0)

    @field_validator("deadline_s", "ttl_s", "stall_s", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any) -> Any:
        """Take `none`, as other settings of this project do, for YAML's `null`."""
        return None if isinstance(value, str) and value.strip().lower() == "none" else value


class ClusterConfig(BaseModel):
    """Where tasks and training jobs run on a cluster; without effect in local runs.

    Attributes:
        cpu_image: Image of the stages that need no GPU.
        gpu_image: Image of training and generation on GPUs.
        image_pull_policy: Kubernetes' own by default: "Always" for the tag latest, else "IfNotPresent".
        image_pull_secrets: Secrets that pull the images.
        pvc: ReadWriteMany volume claim mounted at the workspace's path; empty for none.
        gpus: GPUs of each task that trains or generates in its own pod; 0 runs them, and training jobs, on CPUs. A pod
            of a training job gets `launch.processes_per_node` GPUs.
        accelerator: Resource name of a GPU.
        cpu (cores): CPU request of a data or weight stage ("4").
        memory (bytes): Memory request of a data or weight stage ("16Gi").
        gpu_cpu (cores): CPU request of a training or generation pod.
        gpu_memory (bytes): Memory request of a training or generation pod.
        shared_memory (bytes): Size of the memory-backed /dev/shm of a training or generation pod; Docker's 64 MB kill NCCL and
            loader workers.
        launcher_cpu (cores): CPU request of a task that submits and follows a training job, or opens or closes a run.
        launcher_memory (bytes): Memory request of such a task.
        node_selector: Labels of the nodes for training and generation.
        tolerations: Taints that training and generation tolerate.
        affinity: Kubernetes affinity of training pods; its node affinity also holds for generation.
        environment: Environment variables of every pod that are no secret, as `AWS_ENDPOINT_URL` and `AWS_DEFAULT_REGION` of an
            S3 service, `HF_ENDPOINT` or `HTTPS_PROXY`.
        secrets: Environment variables of every pod that come from Secrets (hub token, S3 and MLflow credentials).
        retries: Times that KFP tries a training or generation task again whose pod was lost; whether it also does so for one
            that failed depends on the installation. A training that fails is tried again by the launcher (`job.tries`).
        job: What training jobs get; the only part that can change when a run starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_image: str = CPU_IMAGE
    gpu_image: str = GPU_IMAGE
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    image_pull_secrets: tuple[str, ...] = ()
    pvc: str = ""
    gpus: int = Field(default=0, ge=0)
    accelerator: str = "nvidia.com/gpu"
    cpu: str = ""
    memory: str = ""
    gpu_cpu: str = ""
    gpu_memory: str = ""
    shared_memory: str = ""
    launcher_cpu: str = ""
    launcher_memory: str = ""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    affinity: dict[str, Any] = {}
    environment: dict[VariableName, str] = {}
    secrets: tuple[SecretVariable, ...] = ()
    retries: int = Field(default=2, ge=0)
    job: JobConfig = JobConfig()

    @property
    def training_image(self) -> str:
        """Image of training and generation: the GPU image, or the CPU image where no GPUs are asked for."""
        return self.gpu_image if self.gpus else self.cpu_image

    @model_validator(mode="after")
    def _set_once(self) -> "ClusterConfig":
        twice = sorted({secret.variable for secret in self.secrets} & set(self.environment))
        if twice:
            raise ValueError(f"{', '.join(twice)} is set by environment and by secrets: keep one")
        return self

    @field_validator("affinity", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        """Undo KFP, which carries every number of a mapping as a float; Kubernetes wants weights as integers."""
        if isinstance(value, dict):
            return {key: cls._whole_numbers(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cls._whole_numbers(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value
