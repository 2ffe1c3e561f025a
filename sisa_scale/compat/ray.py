"""Private parts of Ray, checked with 2.60.0. pyproject.toml keeps it in that minor series."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import services, utils, worker
from ray.job_config import JobConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ResizingState
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = [
    "ControllerCallback",
    "LeanTrainer",
    "OwnPathJob",
    "ResizingState",
    "away_from",
    "draining_nodes",
    "messages_to",
    "scratch_in",
    "signals_left_alone",
]

# ControllerCallback: Ray's public callbacks are told of failures, not of the next attempt's workers before they start.
# ResizingState: the only word that running workers are to be replaced by more or fewer.


class OwnPathJob(JobConfig):  # type: ignore[misc]
    """A job whose workers import what is installed, not what lies where the driver runs.

    Ray puts the driver's working directory and the folder of its script on the path of every worker, unless the job
    brings a working directory of its own; a `data.py` or `wandb/` there would be imported.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray's trainer without the helper processes that do nothing here; each costs a processor seconds at every start.

    One hands out data sets of Ray's, which we have none of. In a cluster of our own nobody asks an autoscaler for
    nodes, and placement groups need no cleaning up: all of it ends with the run.
    """

    def __init__(self, *arguments: Any, is_cluster_ours: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_cluster_ours = is_cluster_ours

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback) if self._is_cluster_ours else (DatasetsCallback,)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._is_cluster_ours and type(options["scaling_policy"]) is FixedScalingPolicy:
            options["scaling_policy"] = _AskNobody(self.scaling_config)
        return super()._initialize_and_run_controller(**options)


class _AskNobody(FixedScalingPolicy):  # type: ignore[misc]
    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask no autoscaler, neither now nor before a decision."""

    def _maybe_send_resource_request(self) -> None:
        pass


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


@contextmanager
def messages_to(log: Path) -> Iterator[None]:
    """Append what Ray would print into the driver's terminal to a file: eight lines for every worker that is lost.

    Its listener for errors looks the printing function up whenever one comes.
    """
    printed = worker.print_to_stdstream

    def note(data: dict[str, Any], **_how: Any) -> None:
        with suppress(OSError), log.open("a") as stream:  # a full disk must not end the listener
            stream.writelines(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n" for line in data["lines"])

    worker.print_to_stdstream = note
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def draining_nodes() -> set[str]:
    """Return the ids of nodes that are to go away; `ray.nodes()` counts them as alive."""
    return set(ray._private.state.state.get_draining_nodes())


def away_from(nodes: list[str]) -> dict[str, str]:
    """Return a label selector for any other node; the label of a node's id has no public name."""
    return {ray._raylet.RAY_NODE_ID_KEY: f"!in({','.join(nodes)})"}


def scratch_in(directory: str | Path) -> dict[str, Any]:
    """Return the argument of `ray.init` for the folder of its sockets and logs; /tmp/ray may be another user's."""
    return {"_temp_dir": str(directory)}
