"""Exit codes of a worker that ends on purpose and wants to be started again; those of errors are in `errors`."""

import atexit
import os
import sys
import threading
from typing import NoReturn

PREEMPTED = 75  # EX_TEMPFAIL: a checkpoint was saved because the machine is taken away; put the job back into the queue
HUNG = 76  # the watchdog ended the process; start it again from the newest checkpoint
ROLLED_BACK = 77  # the guard gave up on the last steps; start it again from the newest checkpoint

RAY_THREAD = "ray-train"  # the driver's: while it waits inside Ray, the end of the interpreter would abort the process


def end_beside_ray(code: int) -> None:
    """End this process if a thread that waits for Ray is left in it; else return."""
    if any(thread.name == RAY_THREAD for thread in threading.enumerate()):
        end_process(code)


def end_process(code: int) -> NoReturn:
    """End this process after its registered last acts, but without taking the interpreter down around its threads."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
