"""Turning Ray's word that a node is to be drained into a request to save and stop."""

import threading
import time

from sisa_scale.training.preemption import request_stop

_POLL_SECONDS = 3.0


def watch_for_drain() -> None:
    """Ask for a checkpoint and a stop when a node of this run is to be taken away.

    The question to Ray is a collective of all workers, so it is asked by a thread of its own on every worker, and no
    step waits for it.
    """
    threading.Thread(target=_watch, name="drain", daemon=True).start()


def _watch() -> None:
    import ray.train

    while True:
        time.sleep(_POLL_SECONDS)
        try:
            info = ray.train.get_preemption_info()
        except Exception:  # the workers are being ended: nobody is left to ask
            return
        if info is not None:
            left = None if info.deadline_ms is None else max(0.0, info.deadline_ms / 1000 - time.time())
            request_stop("preemption", left)
            return
