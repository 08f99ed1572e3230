"""Entry of one generating process under torchrun: `python -m components.generate.worker SPEC.json`."""

import sys
from pathlib import Path


def main() -> int:
    """Generate as the spec says; return 1 on an error that the user can act on."""
    from components.model.megatron import import_megatron

    import_megatron()
    from components.errors import VlmError
    from components.generate.generation import generate_partition
    from components.generate.spec import GenerationSpec

    try:
        generate_partition(GenerationSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except VlmError as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
