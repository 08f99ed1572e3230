"""How far converted models are from transformers' LLaVA: a table of the largest logit differences.

    python -m tests.benchmarks.weight_parity

Every case of tests/support/parity.py is converted and combined by the real stages, loaded at tensor parallel 1, 2 and 4,
and compared with `LlavaForConditionalGeneration` on the same weights. The bf16 rows compare with the exact (float32) logits of
the bf16 weights; transformers' own bf16 error stands beside them.
"""

import tempfile
from pathlib import Path

from tests.support.parity import CASES, SIZES, build_reference, logits_at
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


if __name__ == "__main__":
    main()
