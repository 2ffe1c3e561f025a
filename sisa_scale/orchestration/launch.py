"""Start the workers of a run with Ray Train, watch them, and say how it ended."""

import os
import platform
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.run import RunConfig
from sisa_scale.data.sources import load_manifests
from sisa_scale.errors import SisaScaleError, TrainingError
from sisa_scale.evaluation.resources import check_vocabulary
from sisa_scale.orchestration.cluster import Device, ray_cluster
from sisa_scale.orchestration.drain import watch_for_drain
from sisa_scale.orchestration.failure import clear_failure, has_failure, note_failure, raise_failure
from sisa_scale.orchestration.nodes import living_nodes, places
from sisa_scale.reporting.events import EventFeed
from sisa_scale.training.outcome import Outcome
from sisa_scale.training.preemption import SIGNAL_GRACE_SECONDS, write_stop
from sisa_scale.training.run_directory import EVENTS, RunDirectory

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 5.0


def launch(config: RunConfig, watch: Callable[[], None], announce: Callable[[str], None]) -> Outcome:
    """Run the config to its end, or until a signal asks for a checkpoint and a stop.

    Ctrl-C is an interrupt; SIGTERM and SIGUSR1 mean that this job is taken away. A node that is taken away ends the run
    only if the others are too few. watch: called a few times a second while the workers run; announce: told what
    happens in plain words. Raises the SisaScaleError of a worker, or TrainingError when workers were lost more often
    than allowed.
    """
    directory = RunDirectory(config.directory)
    check_vocabulary(config, load_manifests(config.data))
    directory.stop_path.unlink(missing_ok=True)
    clear_failure(config.directory)
    directory.close_attempt()
    directory.event("launch", workers=config.resources.workers, process=f"{platform.node()}:{os.getpid()}")
    announce(
        "starting Ray" if config.resources.ray_address is None else f"joining Ray at {config.resources.ray_address}"
    )
    feed = EventFeed(config.directory / EVENTS)

    def look() -> None:
        for line in feed.news():
            announce(line)
        watch()

    with ray_cluster(config.resources) as device, _stop_on_signals(directory.stop_path, announce) as asked:
        announce(f"starting {config.resources.workers} workers on {device}")
        _fit(config, device, look)
        while _is_worth_another(directory, config, device) and not asked:
            announce("going on with the nodes that are left")
            _fit(config, device, look)
    return _outcome(directory, config)


def _is_worth_another(directory: RunDirectory, config: RunConfig, device: Device) -> bool:
    """Whether the workers ended because nodes are taken away, and the others suffice."""
    newest = directory.attempts()[-1]
    if newest["outcome"] != "preempted":
        return False
    return places(living_nodes(), _each(config, device)) >= config.resources.worker_range[0]


def _fit(config: RunConfig, device: Device, look: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(config, device).fit()
        except Exception as error:  # handed to the main thread below
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    patience = _FAREWELL_SECONDS  # Ray starts the workers again after an error that we know to be final
    while thread.is_alive() and patience > 0:
        thread.join(_POLL_SECONDS)
        patience -= _POLL_SECONDS if has_failure(config.directory) else 0
        look()
    directory = RunDirectory(config.directory)
    directory.close_attempt()
    if failures or has_failure(config.directory):
        directory.mark_final()
    look()
    raise_failure(config.directory)
    if failures:
        raise _lost_workers(config, failures[0]) from failures[0]


def _trainer(config: RunConfig, device: Device) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from sisa_scale.orchestration.deaths import DeathWatch
    from sisa_scale.orchestration.placement import Placement

    resources = config.resources
    environment = {"OMP_NUM_THREADS": str(resources.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    storage = config.directory / "ray"
    storage.mkdir(parents=True, exist_ok=True)
    attempt = RunDirectory(config.directory).current_attempt() + 1
    num_workers = resources.workers if resources.min_workers is None else (resources.min_workers, resources.workers)
    return TorchTrainer(
        _work,
        train_loop_config={"config": config, "device": device},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=device == "cuda",
            resources_per_worker=_each(config, device),
            elastic_resize_monitor_interval_s=resources.resize_every_seconds,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt_{attempt:04d}_{secrets.token_hex(3)}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            callbacks=[DeathWatch(config.directory), Placement(config.directory, resources)],
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _each(config: RunConfig, device: Device) -> dict[str, float]:
    """Return what a worker takes of a node."""
    return {"CPU": config.resources.cpus_per_worker, **({"GPU": 1} if device == "cuda" else {})}


def _work(arguments: dict[str, Any]) -> None:
    import ray

    from sisa_scale.training.worker import work

    config: RunConfig = arguments["config"]
    if has_failure(config.directory):
        return  # Ray restarted us, but the error would come again
    try:
        watch_for_drain()
        work(config, arguments["device"], ray.get_runtime_context().get_node_id())
    except SisaScaleError as error:
        note_failure(config.directory, error)
        raise


@contextmanager
def _stop_on_signals(stop_path: Path, announce: Callable[[str], None]) -> Iterator[list[int]]:
    """Turn signals into requests to save and stop; yields the list of those that came."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)
        if number == signal.SIGINT:
            write_stop(stop_path, "interrupt")
            announce("stopping after this step, with a checkpoint (Ctrl-C once more stops at once and loses the steps)")
        else:
            write_stop(stop_path, "preemption", SIGNAL_GRACE_SECONDS)
            announce(f"{signal.Signals(number).name}: saving a checkpoint and ending, to be started again")

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        stop_path.unlink(missing_ok=True)


def _lost_workers(config: RunConfig, error: BaseException) -> TrainingError:
    directory = RunDirectory(config.directory)
    newest = (directory.attempts() or [{}])[-1]
    lines = str(error).strip().splitlines()
    reason = newest.get("reason") or (lines[-1] if lines else repr(error))
    step = (CheckpointStore(config.directory, config.checkpoint.directory).steps() or [0])[-1]
    reached = newest.get("reached_step") or 0
    return TrainingError.at(
        config.directory,
        found=f"a failure after {config.resources.max_failures} restarts, the last: {reason}",
        allowed=f"resources.max_failures {config.resources.max_failures} restarts are made",
        remedy=f"The newest checkpoint is of step {step}; the {max(0, reached - step)} steps since are taken again. "
        f"With the cause removed, go on with `sisa-scale resume {config.directory}`.",
    )


def _outcome(directory: RunDirectory, config: RunConfig) -> Outcome:
    attempts = directory.attempts()
    outcome = attempts[-1]["outcome"] if attempts else "no attempt"
    if outcome in ("finished", "preempted", "interrupted"):
        return cast(Outcome, outcome)
    raise TrainingError.at(
        config.directory,
        found=f"an attempt that ended as {outcome}",
        allowed="a run ends finished, preempted or interrupted",
        remedy=f"Continue with `sisa-scale resume {config.directory}`.",
    )
