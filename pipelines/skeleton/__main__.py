"""`make stage NAME=...`: write a new stage's skeleton into this checkout."""

import sys
from pathlib import Path

from components.errors import VlmError
from pipelines.skeleton.writing import next_steps, write_skeleton


def main() -> int:
    """Write the skeleton of the stage that the one argument names, and say what is left to do."""
    name = " ".join(sys.argv[1:])
    root = Path(__file__).resolve().parents[2]
    try:
        for path in write_skeleton(root, name):
            print(path.relative_to(root))
    except VlmError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(f"\n{next_steps(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
