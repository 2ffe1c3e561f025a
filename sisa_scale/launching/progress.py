"""`python -m sisa_scale.launching.progress RUN_DIR`: the step of the newest checkpoint, and how the last attempt ended.

For the script of a job: one that saves nothing between two interruptions is not put back for ever.
"""

import sys
from pathlib import Path

from sisa_scale.checkpoint.store import store_in
from sisa_scale.runs.directory import RunDirectory


def progress(run_dir: Path) -> tuple[int, str]:
    """Return the step of the newest checkpoint, 0 before the first, and an outcome, `-` for none."""
    steps = store_in(run_dir).steps()
    attempts = RunDirectory(run_dir).attempts()
    return (steps[-1] if steps else 0), (attempts[-1].outcome if attempts else None) or "-"


if __name__ == "__main__":
    sys.stdout.write("{} {}\n".format(*progress(Path(sys.argv[1]))))
