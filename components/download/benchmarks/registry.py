"""The benchmarks by the names that settings call them."""

from collections.abc import Mapping

from components.download.benchmarks import captions, multiple_choice, open_questions
from components.download.benchmarks.benchmark import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = {
    "pope": open_questions.POPE,
    "mme": open_questions.MME,
    "scienceqa": multiple_choice.SCIENCEQA,
    "ai2d": multiple_choice.AI2D,
    "chartqa": open_questions.CHARTQA,
    "docvqa": open_questions.DOCVQA,
    "infovqa": open_questions.INFOVQA,
    "gqa": open_questions.GQA,
    "mmbench": multiple_choice.MMBENCH,
    "seedbench": multiple_choice.SEEDBENCH,
    "realworldqa": multiple_choice.REALWORLDQA,
    "ocrbench": open_questions.OCRBENCH,
    "mmmu_pro": multiple_choice.MMMU_PRO,
    "mmmu_pro_vision": multiple_choice.MMMU_PRO_VISION,
    "textvqa": open_questions.TEXTVQA,
    "nocaps": captions.NOCAPS,
    "flickr30k": captions.FLICKR30K,
}
"""A benchmark leaves `NAME.jsonl`, or `NAME.json` where it has captions; `mmbench` also `mmbench_circular.jsonl`."""
