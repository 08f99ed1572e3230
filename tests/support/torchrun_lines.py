"""What torchrun writes."""


def root_cause(rank: int, local_rank: int, code: int, when: str = "2026-11-27_12:00:00") -> list[str]:
    """The end of a failed node's log."""
    return [
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "============================================================",
        "Root Cause (first observed failure):",
        "[0]:",
        f"  time      : {when}",
        f"  host      : node-{rank}",
        f"  rank      : {rank} (local_rank: {local_rank})",
        f"  exitcode  : {code} (pid: 77)",
    ]
