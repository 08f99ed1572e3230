"""The rows of a local run's display."""

from collections.abc import Sequence


def stage_names(after_pretrain: Sequence[str], after_sft: Sequence[str]) -> list[str]:
    """Return the rows of the display in the order of the DAG; anything else is added as it appears.

    Args:
        after_pretrain: Names of the evaluations of the pretrained model.
        after_sft: Names of the evaluations of the tuned model.
    """

    def examination(names: Sequence[str]) -> list[str]:
        return [f"{stage}/{name}" for name in names for stage in ("generate", "evaluate")]

    return [
        "open_run",
        "download/dataset",
        "download/weights",
        "wds_conversion/pretrain",
        "wds_conversion/sft",
        "energon_split/pretrain",
        "energon_split/sft",
        "weight_conversion/language",
        "weight_conversion/vision",
        "combine",
        "pretrain",
        *examination(after_pretrain),
        "sft",
        *examination(after_sft),
        "report",
        "export",
    ]
