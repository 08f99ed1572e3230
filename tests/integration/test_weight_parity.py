"""Converted weights against transformers' LLaVA: every case, tensor parallel 1, 2 and 4, fp32 and bf16."""

import pytest
from torch import Tensor

from tests.support.parity import CASES, SIZES, Reference, build_reference, logits_at
from tests.support.parity_worker import DTYPES

FP32_BOUND = 1e-5
# Both compute in bf16 and round at different places: each is about as far from the exact logits as the other. It is the worst
# of a few thousand values, and up to 1.8 times transformers' here.
BF16_BOUND = 3.0

References = dict[str, Reference]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    folder = tmp_path_factory.mktemp("parity")
    return {
        f"{dtype}: {case.name}": build_reference(folder / f"{dtype}-{number}", case, DTYPES[dtype])
        for dtype in DTYPES
        for number, case in enumerate(CASES)
    }


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    tensor_parallel: int = request.param
    return tensor_parallel


@pytest.fixture(scope="module")
def found(size: int, references: References, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    models = {name: reference.model for name, reference in references.items()}
    dtypes = {name: name.partition(":")[0] for name in references}
    return logits_at(size, models, dtypes, tmp_path_factory.mktemp("logits") / "results")


def test_fp32_logits_equal_transformers(references: References, found: dict[str, Tensor]) -> None:
    for name, reference in references.items():
        if name.startswith("fp32"):
            assert reference.exact.abs().max() > 1
            assert (found[name] - reference.exact).abs().max() <= FP32_BOUND, name


def test_bf16_logits_are_as_near_to_exact_as_transformers(references: References, found: dict[str, Tensor]) -> None:
    for name, reference in references.items():
        if name.startswith("bf16"):
            own_error = (reference.own - reference.exact).abs().max()
            assert own_error > 0
            assert (found[name] - reference.exact).abs().max() <= BF16_BOUND * own_error, name


def test_gate_and_up_cut_as_one_matrix_are_seen(references: References, found: dict[str, Tensor], size: int) -> None:
    first = next(iter(references.values()))
    difference = (found["wrong cut"] - first.exact).abs().max()
    # In one process nothing is cut, and the mistake can't show.
    assert difference > 1000 * FP32_BOUND if size > 1 else difference <= FP32_BOUND
