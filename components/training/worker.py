"""Entry of one training process: `torchrun -m components.training.worker SPEC.json`.

Everything is imported in `main`: megatron-core by `import_megatron`, before anything else imports it.
"""

import sys
from pathlib import Path


def main() -> int:
    """Train as the spec says.

    Returns:
        0 when finished, 75 when stopped by SIGTERM after saving, 1 on an error that the user can act on.
    """
    from components.quiet import ignore_library_warnings

    ignore_library_warnings()  # before anything is imported: libraries warn as they are
    from components.model.megatron import import_megatron

    import_megatron()
    from components.errors import VlmError
    from components.launch.classification import PREEMPTED_CODE
    from components.training.spec import TrainingSpec
    from components.training.trainer import train

    spec = TrainingSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        finished = train(spec)
    except VlmError as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return 1
    return 0 if finished else PREEMPTED_CODE


if __name__ == "__main__":
    sys.exit(main())
