"""Every reason of the table, on what torch, the kubelet and this project write."""

import pytest

from components.launch.classification import REASONS, Reason, Verdict, reason_of
from components.launch.evidence import Evidence

GLOO = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.244.0.31]:21843",
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv operation "
    "to complete",
)
NCCL = (
    "[rank3]:[E1127 12:00:00.000000000 ProcessGroupNCCL.cpp:683] [Rank 3] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=5217, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=1800000) ran for 1800031 milliseconds before "
    "timing out.",
    "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:317, remote process exited "
    "or there was a network error, NCCL version 2.27.3",
)
MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
    "1.23 GiB is free."
)


def user_error(message: str) -> Evidence:
    """What a worker leaves that ends with an error of ours."""
    return Evidence(code=1, lines=(f"ERROR: {message}",))


CASES: list[tuple[str, Verdict, Evidence]] = [
    (
        "the deadline is over",
        "never",
        Evidence(operator="DeadlineExceeded: Job was active longer than specified deadline"),
    ),
    ("the image is not there", "never", Evidence(image='ErrImagePull: "x:1": not found')),
    ("the cluster refuses it", "never", Evidence(refused="TrainJobResourcesCreationFailed: field is immutable")),
    ("no progress", "again", Evidence(stalled="no line and no step for 1800 s")),
    (
        "a pod was lost",
        "again",
        Evidence(code=137, lost="DeletionByTaintManager: Taint manager: deleting due to NoExecute taint"),
    ),
    ("out of host memory", "once", Evidence(code=137, container="OOMKilled")),
    ("stopped from outside after saving", "again", Evidence(code=75)),
    (
        "another process trains there",
        "again",
        user_error("/w/training is being written by another training, process 77 on a, for 900 s already."),
    ),
    (
        "the training diverged",
        "never",
        user_error("The loss of step 7 is nan: training diverged. Lower recipe.learning_rate."),
    ),
    (
        "the volume fails",
        "again",
        user_error("/w/x can't be read: [Errno 116] Stale file handle, for 7.5 s. That says nothing about its content"),
    ),
    (
        "a loader process ended",
        "once",
        user_error("A loader process of sft ended: DataLoader worker (pid 7) is killed"),
    ),
    ("out of GPU memory", "once", Evidence(code=1, lines=("Traceback (most recent call last):", MEMORY))),
    ("it can't be done as it is set", "never", user_error("tensor_parallel is 3, but 8 processes were started")),
    (
        "a GPU failed",
        "again",
        Evidence(code=1, lines=("RuntimeError: CUDA error: an illegal memory access was encountered",)),
    ),
    (
        "a GPU failed",
        "again",
        Evidence(code=1, lines=("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",)),
    ),
    *[("ranks lost one another", "again", Evidence(code=1, lines=("Traceback", line))) for line in (*GLOO, *NCCL)],
    ("ranks lost one another", "again", Evidence(code=-6, lines=(NCCL[0],))),
    ("ended by a signal", "again", Evidence(code=-9)),
    ("ended by a signal", "again", Evidence(code=137)),
    (
        "an error that nobody foresaw",
        "once",
        Evidence(code=1, lines=("Traceback (most recent call last):", "KeyError: 'x'")),
    ),
    ("no reason given", "again", Evidence()),
]


@pytest.mark.parametrize(("name", "verdict", "evidence"), CASES)
def test_reasons_are_told_apart(name: str, verdict: Verdict, evidence: Evidence) -> None:
    reason = reason_of(evidence)
    assert (reason.name, reason.verdict) == (name, verdict)


def test_every_row_of_the_table_has_a_case() -> None:
    assert {reason.name for reason in REASONS} == {name for name, _, _ in CASES}
    assert len({reason.name for reason in REASONS}) == len(REASONS)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_a_reason_that_is_told_at_last_says_what_to_do(reason: Reason) -> None:
    says_itself = {"the training diverged", "it can't be done as it is set"}
    assert reason.advice.endswith(".") != (reason.name in says_itself)


def test_an_error_of_ours_counts_over_the_noise_of_other_ranks() -> None:
    """The rank that knows why ends with its message; what is behind it may be torch's farewell."""
    lines = ("ERROR: the disk is full.", "[W1127 TCPStore.cpp:125] recvValue failed: Connection reset by peer")
    assert reason_of(Evidence(code=1, lines=lines)).verdict == "never"
