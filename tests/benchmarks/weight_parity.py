"""How far converted models are from transformers' LLaVA: tables of the largest differences.

    python -m tests.benchmarks.weight_parity

Every case of tests/support/parity.py is converted and combined by the real stages, loaded at tensor parallel 1, 2 and 4,
and compared with `LlavaForConditionalGeneration` on the same weights. The bf16 rows compare with the exact (float32) logits of
the bf16 weights; transformers' own bf16 error stands beside them. A second table has decoding, losses, gradients (relative to the
parameter's largest) and the exported folder, in float32, the worst of the three sizes.
"""

import tempfile
from pathlib import Path

import torch

from components.context import RunContext
from components.export.config import ExportConfig
from components.export.stage import run_export
from tests.support.parity import CASES, SIZES, build_reference, expected_of, logits_at, training_at
from tests.support.parity_worker import DTYPES


def main() -> None:
    """Compute and print a Markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = {
            f"{dtype}: {case.name}": build_reference(folder / f"{dtype}-{number}", case, DTYPES[dtype])
            for dtype in DTYPES
            for number, case in enumerate(CASES)
        }
        models = {name: reference.model for name, reference in references.items()}
        dtypes = {name: name.partition(":")[0] for name in references}
        found = {size: logits_at(size, models, dtypes, folder / f"at-{size}") for size in SIZES}
    headings = "".join(f" tensor parallel {size} |" for size in SIZES)
    print(f"| model | largest logit |{headings} transformers' own error |\n|---|---|{'---|' * len(SIZES)}---|")
    for name, reference in references.items():
        differences = "".join(f" {(found[size][name] - reference.exact).abs().max():.1e} |" for size in SIZES)
        own = (reference.own - reference.exact).abs().max()
        print(f"| {name} | {reference.exact.abs().max():.1f} |{differences} {own:.1e} |")
    print()
    with tempfile.TemporaryDirectory() as folder_name:
        _training_table(Path(folder_name))


def _training_table(folder: Path) -> None:
    references = [(case, build_reference(folder / str(n), case, torch.float32)) for n, case in enumerate(CASES)]
    models = {case.name: reference.model for case, reference in references}
    measured = [training_at(size, models, folder / f"training-{size}") for size in SIZES]
    print("| model | decoding | loss | gradients | exported logits |\n|---|---|---|---|---|")
    for case, reference in references:
        expected = expected_of(reference)
        found = [by_name[case.name] for by_name in measured]
        steps = max(float((one.steps - expected.steps).abs().max()) for one in found)
        losses = max(float((one.losses - expected.losses).abs().max()) for one in found)
        gradients = max(
            float((gradient - expected.gradients[name]).abs().max() / expected.gradients[name].abs().max())
            for one in found
            for name, gradient in one.read_gradients(reference).items()
        )
        context = RunContext(run_id="t", run_name="t", workspace=folder / "exports")
        exported = run_export(context, ExportConfig(custom_code=not case.stock), reference.model).manifest.facts
        print(
            f"| {case.name} | {steps:.1e} | {losses:.1e} | {gradients:.1e} | {exported['max_logit_difference']:.1e} |"
        )


if __name__ == "__main__":
    main()
