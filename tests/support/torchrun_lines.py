"""What torchrun writes."""


def root_cause(rank: int, local_rank: int, code: int) -> list[str]:
    """The end of a failed node's log."""
    return [
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "============================================================",
        "Root Cause (first observed failure):",
        "[0]:",
        f"  rank      : {rank} (local_rank: {local_rank})",
        f"  exitcode  : {code} (pid: 77)",
    ]
