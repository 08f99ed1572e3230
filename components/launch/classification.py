"""Why an attempt failed, and whether another one may help: one row per reason, the first that fits counts.

A reason that passes (a lost node, a preemption, a time-out between ranks) is tried again as long as checkpoints are made. One
that stays is told at once. Between them are those that pass by chance or never: they are tried again unless they come back at
the same step.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from components.launch.evidence import Evidence

PREEMPTED_CODE = 75  # EX_TEMPFAIL: a checkpoint was saved on SIGTERM

LOST_ONE_ANOTHER = "ranks lost one another"

Verdict = Literal["again", "once", "never"]


@dataclass(frozen=True)
class Reason:
    """A reason of failure.

    Attributes:
        name: What it is, in a few words; stays the same, since attempts are compared by it.
        verdict: "again", it may pass; "once", it may pass, but not if it comes back at the same step; "never", the same job
            would fail again.
        advice: What to do when it stays; empty where the lines of the failure say it themselves.
        fits: Tells whether an attempt failed for it.
    """

    name: str
    verdict: Verdict
    advice: str
    fits: Callable[[Evidence], bool]


def reason_of(evidence: Evidence) -> Reason:
    """Return the reason of a failure."""
    return next(reason for reason in REASONS if reason.fits(evidence))


def _says(*patterns: str) -> Callable[[Evidence], bool]:
    """Return a test for lines that have one of some patterns."""
    found = re.compile("|".join(patterns), re.IGNORECASE)
    return lambda evidence: bool(found.search(evidence.text))


def _user_error(*patterns: str) -> Callable[[Evidence], bool]:
    """Return a test for an error of ours (`ERROR: ...`, exit code 1) whose message has one of some patterns."""
    found = re.compile("|".join(patterns), re.IGNORECASE)

    def fits(evidence: Evidence) -> bool:
        errors = [line for line in evidence.lines if line.startswith("ERROR: ")]
        return bool(errors) and evidence.code in (0, 1) and bool(found.search(errors[-1]))

    return fits


_MEMORY = "Raise cluster.gpu_memory, or lower loader_workers or shuffle_buffer."

REASONS: tuple[Reason, ...] = (
    Reason(
        "the deadline is over",
        "never",
        "Raise cluster.job.deadline_s and run again.",
        lambda found: "DeadlineExceeded" in found.operator or "longer than specified deadline" in found.operator,
    ),
    Reason(
        "the image is not there",
        "never",
        "Correct cluster.gpu_image (cluster.cpu_image without GPUs), or let this namespace pull it "
        "(cluster.image_pull_secrets).",
        lambda found: bool(found.image),
    ),
    Reason(
        "the cluster refuses it",
        "never",
        "Change what it names: a setting under cluster or launch, the runtime, or the namespace's rules.",
        lambda found: bool(found.refused) or "TrainingRuntimeNotSupported" in found.operator,
    ),
    Reason(
        "no progress",
        "again",
        "Look at where the ranks stand, at the network between the nodes and at the volume; if steps or checkpoints simply "
        "take longer, raise cluster.job.stall_s.",
        lambda found: bool(found.stalled),
    ),
    Reason("a pod was lost", "again", "Look at the nodes: kubectl describe node.", lambda found: bool(found.lost)),
    Reason("out of host memory", "once", _MEMORY, lambda found: found.container == "OOMKilled"),
    Reason(
        "stopped from outside after saving",
        "again",
        "Something goes on stopping its pods: a queue, a node that is drained, a person.",
        lambda found: found.code == PREEMPTED_CODE,
    ),
    Reason(
        "another process trains there",
        "again",
        "Wait for it, or end it, and run again.",
        _user_error(r"is being written by another training"),
    ),
    Reason(
        "the training diverged",
        "never",
        "",
        _user_error(r"training diverged", r"\bis nan\b", r"\bis -?inf\b"),
    ),
    Reason(
        "the volume fails",
        "again",
        "Look at the volume and its connection.",
        _user_error(
            r"That says nothing about its content",
            r"(Stale file handle|Input/output error|Connection (reset|refused|timed out)|Transport endpoint)",
        ),
    ),
    Reason("a loader process ended", "once", _MEMORY, _user_error(r"A loader process of")),
    Reason(
        "out of GPU memory",
        "once",
        "Set memory.recompute or memory.shard_optimizer of the stage, or lower recipe.sequence_length.",
        _says(
            r"CUDA out of memory", r"CUDA error: out of memory", r"\bOutOfMemoryError\b", r"CUBLAS_STATUS_ALLOC_FAILED"
        ),
    ),
    # `rank 3: ValueError(...)` is what another rank met that is no error of ours (components.model.distributed).
    Reason("it can't be done as it is set", "never", "", _user_error(r"^ERROR: (?!.*\brank \d+: \w+\()")),
    Reason(
        "a GPU failed",
        "again",
        "Look at the node's GPUs (nvidia-smi -q, dmesg for Xid); keep it out with cluster.affinity.",
        _says(
            r"uncorrectable ECC",
            r"CUDA error: (?!out of memory)",
            r"GPU has fallen off",
        ),
    ),
    Reason(
        LOST_ONE_ANOTHER,
        "again",
        "Look at the network between the pods: cluster.job.environment with NCCL_DEBUG: INFO and the right "
        "NCCL_SOCKET_IFNAME.",
        _says(
            r"Watchdog caught collective operation timeout",
            r"nccl(System|Remote|Internal|UnhandledCuda)Error|NCCL (error|timeout)|ncclUnhandled",
            r"DistNetworkError|DistStoreError|RendezvousTimeoutError|RendezvousConnectionError",
            r"Connection (closed by peer|reset by peer|refused)|Broken pipe|Socket Timeout",
            r"gloo.*(timed out|timeout|Timed out)|Timed out waiting \d+ms",
        ),
    ),
    Reason(
        "ended by a signal",
        "again",
        "Often the host memory of the whole node: raise cluster.gpu_memory, lower loader_workers.",
        lambda found: found.code < 0 or found.code in (137, 143),
    ),
    Reason(
        "an error that nobody foresaw",
        "once",
        "It is a defect, or a machine that is broken: the lines say where.",
        lambda found: found.code > 0 or "Traceback" in found.text,
    ),
    Reason(
        "no reason given",
        "again",
        "Look at the events of the job and its namespace: kubectl get events --sort-by .lastTimestamp.",
        lambda _: True,
    ),
)
