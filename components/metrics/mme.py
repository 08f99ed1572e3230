"""MME's scores: for every subtask the share of right answers and that of pictures with both answers right, summed up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.metrics.metric import Metric, Row, ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTS: Mapping[str, tuple[str, ...]] = {
    "Perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "Cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
"""MME's parts and their subtasks."""

PART_OF = {subtask: part for part, subtasks in PARTS.items() for subtask in subtasks}
_PLACES = {subtask: place for place, subtask in enumerate(PART_OF)}
_COLUMNS = 4
_FEWEST = 10


def of_subtask(right: float, all_right: float, of_picture: int, subtask: str, counted: bool = True) -> Row:
    """Return what an answer adds, in the four columns of its subtask: right answers, answers, right pictures, pictures.

    Args:
        right: How right the answer is, 0..1.
        all_right: Whether all answers about its picture are right; each of them adds its share of the picture.
        of_picture: How many answers there are about its picture.
        subtask: The subtask.
        counted: Whether the metric counts this subtask; if not, nothing is added.

    Source: C. Fu et al., "MME", 2023; its `eval_tool/calculation.py`.
    """
    row = [0.0] * (_COLUMNS * len(_PLACES))
    if counted:
        start = _COLUMNS * _PLACES[subtask]
        row[start : start + _COLUMNS] = right, 1.0, all_right / of_picture, 1.0 / of_picture
    return tuple(row)


def summed(sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the sum over subtasks of accuracy and accuracy+, 0..2 each; a subtask without samples adds nothing."""
    right, answers, pictures_right, pictures = (sums[:, place::_COLUMNS] for place in range(_COLUMNS))
    return (ratio(right, answers) + ratio(pictures_right, pictures)).sum(axis=1)


def enough_pictures(units: "NDArray[np.float64]") -> bool:
    """Tell whether resamples of pictures hold all subtasks: each that is there has ten pictures or more, or is the only one.

    MME's smallest subtasks have twenty. With ten, one resample in two thousand lacks one of fourteen.
    """
    pictures = units[:, _COLUMNS - 1 :: _COLUMNS].sum(axis=0)
    there = pictures[pictures > 0]
    return len(there) < 2 or bool((there > _FEWEST - 0.5).all())


def _metric(name: str, label: str, unit: str, subtasks: int) -> Metric[...]:
    return Metric(
        name=name,
        label=label,
        per_sample=of_subtask,
        combine=summed,
        unit=unit,
        full_scale=200.0 * subtasks,
        form="counts",
        resamplable=enough_pictures,
    )


MME_TOTAL = _metric("mme_total", "MME", "accuracy and accuracy+ of all subtasks, summed", len(PART_OF))
MME_PERCEPTION = _metric(
    "mme_perception", "Perception", "accuracy and accuracy+ of perception's subtasks, summed", len(PARTS["Perception"])
)
MME_COGNITION = _metric(
    "mme_cognition", "Cognition", "accuracy and accuracy+ of cognition's subtasks, summed", len(PARTS["Cognition"])
)
