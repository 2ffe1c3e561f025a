"""Start the workers of a run with Ray Train, watch them, and say how it ended."""

import os
import platform
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.sources import load_manifests
from sisa_scale.data.read.tokenizer_choice import check_vocabulary
from sisa_scale.errors import TrainingError
from sisa_scale.orchestration.cluster import Device, ray_cluster
from sisa_scale.orchestration.nodes import living_nodes, places
from sisa_scale.orchestration.signals import Asked, StoppedEarlyError, stop_on_signals
from sisa_scale.orchestration.trainer import build_trainer, needs_of_worker
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.exit_codes import RAY_THREAD
from sisa_scale.runs.failure import clear_failure, has_failure, raise_failure
from sisa_scale.runs.layout import RAY_LOG
from sisa_scale.runs.logs.events import EventFeed
from sisa_scale.runs.outcome import Outcome
from sisa_scale.runs.owner import Life
from sisa_scale.training.health.crash_loop import unsaved
from sisa_scale.training.hooks.wandb_writer import unreachable

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 120.0
_LAST_SECONDS = 20.0


def launch(config: RunConfig, watch: Callable[[], None], announce: Callable[[str], None]) -> Outcome:
    """Run the config to its end, or until a signal asks for a checkpoint and a stop.

    Ctrl-C is an interrupt; the other signals mean that this job is taken away. A node that is taken away ends the run
    only if the others are too few. watch: called a few times a second while the workers run; announce: told what
    happens in plain words. Raises the SisaScaleError of a worker, or TrainingError when workers were lost more often
    than allowed.
    """
    directory = RunDirectory(config.directory)
    check_vocabulary(config, load_manifests(config.data))
    with Life(config.directory) as life:
        directory.stop_path.unlink(missing_ok=True)
        with stop_on_signals(directory.stop_path, announce) as asked:
            return _launch(config, life, asked, watch, announce)


def _launch(
    config: RunConfig, life: Life, asked: Asked, watch: Callable[[], None], announce: Callable[[str], None]
) -> Outcome:
    directory = RunDirectory(config.directory)
    clear_failure(config.directory)
    directory.close_attempt()
    directory.event("launch", workers=config.resources.workers, process=f"{platform.node()}:{os.getpid()}")
    announce(
        "starting Ray" if config.resources.ray_address is None else f"joining Ray at {config.resources.ray_address}"
    )
    feed = EventFeed(config.directory)
    uses_wandb = "wandb" in config.observation.writers
    if uses_wandb and config.wandb.mode == "online" and (reason := unreachable()) is not None:
        announce(f"{reason}; wandb will work offline in this attempt, and `wandb sync` sends its files later")

    def look() -> None:
        life.check()
        asked.renew()
        for line in feed.news():
            announce(line)
        watch()

    try:
        with ExitStack() as stack:
            with asked.at_once():
                device = stack.enter_context(ray_cluster(config.resources, config.directory / RAY_LOG))
            announce(f"starting {config.resources.workers} workers on {device}")
            _fit(config, device, life, asked, look)
            while not asked and _was_drained(directory) and _has_room(config, device):
                announce("going on with the nodes that are left")
                _fit(config, device, life, asked, look)
    except StoppedEarlyError:
        announce(f"{asked.first}: no worker had begun, so nothing was done and nothing is lost")
        newest = directory.attempts()[-1:]
        if newest and newest[0].ended is None:  # it began while it was ended
            directory.end_attempt(asked.outcome)
        return asked.outcome
    return _outcome(directory, config)


def _was_drained(directory: RunDirectory) -> bool:
    """Whether the workers ended because nodes are taken away."""
    newest = directory.current_attempt()
    return any(event["event"] == "drain" and event["attempt"] == newest for event in directory.events())


def _has_room(config: RunConfig, device: Device) -> bool:
    return places(living_nodes(), needs_of_worker(config, device)) >= config.resources.worker_range[0]


def _fit(config: RunConfig, device: Device, life: Life, asked: Asked, look: Callable[[], None]) -> None:
    directory, failures = RunDirectory(config.directory), list[BaseException]()
    before = directory.current_attempt()

    def fit() -> None:
        try:
            build_trainer(config, device, life.token).fit()
        except Exception as error:  # handed to the main thread below
            failures.append(error)

    thread = threading.Thread(target=fit, name=RAY_THREAD, daemon=True)
    thread.start()
    # After an error that is known to be final, and after a stop, Ray ends by itself, unless it was ended, too.
    patience, farewell = _FAREWELL_SECONDS, _LAST_SECONDS
    while thread.is_alive() and patience > 0 and farewell > 0:
        thread.join(_POLL_SECONDS)
        patience -= _POLL_SECONDS if has_failure(config.directory) else 0
        look()
        if asked and directory.current_attempt() == before:
            raise StoppedEarlyError
        farewell -= _POLL_SECONDS if asked and _has_ended(directory, before) else 0
    if asked and _has_ended(directory, before):
        return
    directory.close_attempt()
    if failures or has_failure(config.directory):
        directory.mark_final()
    look()
    raise_failure(config.directory)
    if failures:
        raise _lost_workers(config, failures[0]) from failures[0]


def _has_ended(directory: RunDirectory, before: int) -> bool:
    """Whether the newest attempt, one after `before`, has ended itself as it was asked to."""
    newest = directory.attempts()[before:][-1:]
    return bool(newest) and newest[0].outcome in ("finished", "preempted", "interrupted")


def _lost_workers(config: RunConfig, error: BaseException) -> TrainingError:
    directory = RunDirectory(config.directory)
    attempts, lines = directory.attempts(), str(error).strip().splitlines()
    reason = (attempts[-1].reason if attempts else None) or (lines[-1] if lines else repr(error))
    return TrainingError.at(
        config.directory,
        found=f"workers lost more than {config.resources.max_failures} times, at last: {reason}",
        allowed=f"resources.max_failures {config.resources.max_failures} restarts are made",
        remedy=f"{unsaved(config.directory)} With the cause removed, `sisa-scale resume {config.directory}` goes on.",
    )


def _outcome(directory: RunDirectory, config: RunConfig) -> Outcome:
    attempts = directory.attempts()
    outcome = attempts[-1].outcome if attempts else "no attempt"
    if outcome in ("finished", "preempted", "interrupted"):
        return cast(Outcome, outcome)
    raise TrainingError.at(
        config.directory,
        found=f"an attempt that ended as {outcome}",
        allowed="a run ends finished, preempted or interrupted",
        remedy=f"{unsaved(config.directory)} Continue with `sisa-scale resume {config.directory}`.",
    )
