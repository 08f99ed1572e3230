"""The metrics by name: those of this package, and those that installed packages bring."""

from collections.abc import Mapping

from components.metrics.captions import BLEU, CIDER, METEOR, ROUGE_L
from components.metrics.macro import MACRO_ACCURACY
from components.metrics.metric import Metric
from components.metrics.mme import MME_COGNITION, MME_PERCEPTION, MME_TOTAL
from components.metrics.partly_right import ANLS, VQA_ACCURACY
from components.metrics.right_or_wrong import ACCURACY, GROUP_ACCURACY, RELAXED_ACCURACY
from components.metrics.yes_no import F1, MACRO_F1, PRECISION, RECALL, YES_RATIO
from components.plugins import find_plugin

ENTRY_POINTS = "vlm_pipelines.metrics"
"""Group of entry points under which a package names its metrics; each is a `Metric` of that name."""

_METRICS: tuple[Metric[...], ...] = (
    CIDER,
    *BLEU,
    ROUGE_L,
    METEOR,
    ACCURACY,
    GROUP_ACCURACY,
    MACRO_ACCURACY,
    RELAXED_ACCURACY,
    VQA_ACCURACY,
    ANLS,
    F1,
    MACRO_F1,
    PRECISION,
    RECALL,
    YES_RATIO,
    MME_TOTAL,
    MME_PERCEPTION,
    MME_COGNITION,
)

OWN_METRICS: Mapping[str, Metric[...]] = {metric.name: metric for metric in _METRICS}
"""The metrics of this package."""


def find_metric(name: str) -> Metric[...]:
    """Return a metric by its name.

    Raises:
        ValueError: There is no such metric, or what a package brings is none.
    """
    metric = find_plugin(name, OWN_METRICS, ENTRY_POINTS, "metric")
    if not isinstance(metric, Metric) or metric.name != name:
        raise ValueError(f"what an installed package brings as the metric {name!r} is no Metric of that name")
    return metric
