"""Exit codes of a worker that ends on purpose and wants to be started again; those of errors are in `errors`."""

import atexit
import os
import sys
from typing import NoReturn

PREEMPTED = 75  # EX_TEMPFAIL: a checkpoint was saved because the machine is taken away; put the job back into the queue
HUNG = 76  # the watchdog ended the process; start it again from the newest checkpoint
ROLLED_BACK = 77  # the guard gave up on the last steps; start it again from the newest checkpoint


def end_process(code: int) -> NoReturn:
    """End this process after its registered last acts, but without taking the interpreter down around its threads."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
