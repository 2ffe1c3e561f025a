"""Turning Ray's word that a node is to be drained into a request to save and stop."""

import threading
import time
from pathlib import Path

from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.stop_request import request_stop

_POLL_SECONDS = 3.0


def watch_for_drain(run_dir: Path) -> None:
    """Ask for a checkpoint and a stop when a node of this run is to be taken away.

    The question to Ray is a collective of all workers, so it is asked by a thread of its own on every worker, and no
    step waits for it.
    """
    threading.Thread(target=_watch, args=[RunDirectory(run_dir)], name="drain", daemon=True).start()


def _watch(directory: RunDirectory) -> None:
    import ray.train

    while True:
        time.sleep(_POLL_SECONDS)
        try:
            info = ray.train.get_preemption_info()
        except Exception:  # the workers are being ended: nobody is left to ask
            return
        if info is not None:
            left = None if info.deadline_ms is None else max(0.0, info.deadline_ms / 1000 - time.time())
            if ray.train.get_context().get_world_rank() == 0:
                directory.event(
                    "drain", nodes=sorted(info.preempted_node_to_ranks), ranks=info.preempted_ranks, seconds=left
                )
            request_stop("preemption", left)
            return
