"""What a version of Kubeflow Pipelines is known to break is said by name."""

import pytest

from pipelines.kfp_version import warnings


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.17.0", []),
        ("v2.17.3", []),
        ("3.0.0-rc.1", []),
        ("2.16.1", ["exit handler around loops", "named loop"]),
        ("2.5.0", ["restricted", "exit handler around loops", "named loop"]),
        ("unknown", ["does not say its version (unknown); this pipeline needs 2.17"]),
        ("", ["does not say its version (nothing)"]),
    ],
)
def test_flaws(version: str, said: list[str]) -> None:
    found = warnings(version)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))
