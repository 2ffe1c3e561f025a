"""Private parts of Ray, checked with 2.60.0. pyproject.toml keeps it in that minor series."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import services, utils
from ray.job_config import JobConfig
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState

__all__ = [
    "ControllerCallback",
    "OwnPathJob",
    "ResizingState",
    "TorchBackend",
    "away_from",
    "draining_nodes",
    "scratch_in",
    "signals_left_alone",
]

# ControllerCallback: Ray's public callbacks are told of failures, not of the next attempt's workers before they start.
# TorchBackend: what joins the workers to a process group; the environment of each is to be right before.
# ResizingState: the only word that running workers are to be replaced by more or fewer.


class OwnPathJob(JobConfig):  # type: ignore[misc]
    """A job whose workers import what is installed, not what lies where the driver runs.

    Ray puts the driver's working directory and the folder of its script on the path of every worker, unless the job
    brings a working directory of its own; a `data.py` or `wandb/` there would be imported.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextmanager
def signals_left_alone() -> Iterator[None]:
    """Leave the driver's signals to the driver while Ray starts.

    Ray's processes get sessions of their own, so that what is sent to the driver's group does not reach them, and Ray
    does not take SIGTERM for itself: neither in Python nor in C++, where its handler lets Python's run and aborts the
    process three seconds later (the alarm of Abseil's handler of failures).
    """
    popen, take_sigterm = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = partial(popen, start_new_session=True)
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, take_sigterm
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def draining_nodes() -> set[str]:
    """Return the ids of nodes that are to go away; `ray.nodes()` counts them as alive."""
    return set(ray._private.state.state.get_draining_nodes())


def away_from(nodes: list[str]) -> dict[str, str]:
    """Return a label selector for any other node; the label of a node's id has no public name."""
    return {ray._raylet.RAY_NODE_ID_KEY: f"!in({','.join(nodes)})"}


def scratch_in(directory: str | Path) -> dict[str, Any]:
    """Return the argument of `ray.init` for the folder of its sockets and logs; /tmp/ray may be another user's."""
    return {"_temp_dir": str(directory)}
