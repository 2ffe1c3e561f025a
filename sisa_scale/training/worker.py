"""What one worker process does, whoever started it."""

import os
import platform
import traceback
from collections.abc import Sequence
from contextlib import suppress

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.documents import number_documents
from sisa_scale.data.read.heldout import read_heldout
from sisa_scale.data.read.tokenizer_choice import check_vocabulary
from sisa_scale.errors import SisaScaleError
from sisa_scale.runs.attempts import Attempt, crash_loop
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.outcome import Outcome, outcome_of
from sisa_scale.runs.owner import Fence, FencedError
from sisa_scale.runs.problems import RunDirectoryError
from sisa_scale.training.engine.communicator import Communicator, connect
from sisa_scale.training.health.crash_loop import loop_error
from sisa_scale.training.health.determinism import apply_determinism
from sisa_scale.training.health.out_of_memory import raise_explained
from sisa_scale.training.health.votes import asked_together
from sisa_scale.training.health.watchdog import Watchdog
from sisa_scale.training.hooks.checkpoints import Checkpointer
from sisa_scale.training.hooks.exporter import Exporter, serving
from sisa_scale.training.hooks.health import HealthMonitor
from sisa_scale.training.hooks.metrics import MetricsLog
from sisa_scale.training.hooks.monitors import Evaluation, ImportanceMonitor
from sisa_scale.training.hooks.profile import Profiling
from sisa_scale.training.hooks.rollback import RefusedSteps
from sisa_scale.training.hooks.samples import Samples
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.loop import train
from sisa_scale.training.record import record
from sisa_scale.training.run import Run

_MONITOR_SEQUENCES = 1


def work(
    config: RunConfig,
    device: str,
    node: str | None = None,
    *,
    fence: Fence | None = None,
    command: Sequence[str] | None = None,
) -> Outcome:
    """Train with the other workers until the schedule ends or a stop is asked for.

    device: "cpu" or "cuda"; node: what the cluster calls this machine, None takes the host name. fence: of the main
    worker, where another life may take the run over; command: that started the run, if it is not this process's. The
    number of workers is the real one, whatever the config says. Raises a SisaScaleError on every worker when the run
    cannot go on.
    """
    if device == "cpu":
        torch.set_num_threads(config.resources.cpus_per_worker)
    apply_determinism(config.execution)
    workers = connect(device)
    recipe, config = config, config.with_workers(workers.world_size)
    directory = RunDirectory(config.directory)
    _begin_attempt(directory, config, workers, node or platform.node())
    try:
        reason = asked_together(workers, directory.stop_path)
        outcome = outcome_of(reason) if reason is not None else _train(config, workers, fence, recipe, command)
    except FencedError:
        raise  # what lies in the directory is another life's by now
    except Exception as error:
        with suppress(RunDirectoryError):  # it may be what the error is about
            directory.event("error", rank=workers.rank, error=_headline(error))
            if not isinstance(error, SisaScaleError):
                kept = Diagnostics(directory.path, directory.current_attempt())
                kept.write_traceback(workers.rank, traceback.format_exc())
        raise
    if workers.is_main:
        directory.end_attempt(outcome)
    workers.barrier()
    return outcome


def _begin_attempt(directory: RunDirectory, config: RunConfig, workers: Communicator, node: str) -> None:
    """Note that the processes live; raises TrainingError on every worker when the run fails in a circle."""
    places = workers.gather((f"{platform.node()}:{os.getpid()}", node))
    loop: list[Attempt] = []
    if workers.is_main:
        directory.close_attempt()
        loop = crash_loop(directory.attempts())
        if loop:
            directory.mark_final()
        else:
            directory.begin_attempt(config, *(list(column) for column in zip(*places, strict=True)))
    loop = workers.broadcast(loop)
    if loop:
        raise loop_error(config.directory, loop)


def _train(
    config: RunConfig, workers: Communicator, fence: Fence | None, recipe: RunConfig, command: Sequence[str] | None
) -> Outcome:
    run = Run(config, workers, fence)
    if workers.is_main:
        record(run.directory, recipe, run.stream.fingerprint, command)
    check_vocabulary(config, {source.name: source.manifest for source in run.stream.sources})
    tracker = Tracker(config, workers.is_main)
    with (
        Watchdog(run),
        serving(config, workers.is_main) as exporter,
        Checkpointer(run) as checkpointer,
    ):
        add_hooks(run, tracker, exporter)
        run.hooks += [checkpointer, Profiling(run)]
        try:
            state = train(run)
        except torch.OutOfMemoryError as error:
            raise_explained(run, error)
    tracker.finish()
    if state.step >= config.total_steps:
        return "finished"
    return outcome_of(run.stopped_by)


def _headline(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def add_hooks(run: Run, tracker: Tracker, exporter: Exporter | None = None) -> None:
    """Give a worker its hooks in the order they are called; the main worker alone writes logs.

    Checkpoints come after them: what a checkpoint has passed is already in the logs.
    """
    if run.workers.is_main:
        run.hooks.append(MetricsLog(run, tracker, exporter))
    run.hooks.append(RefusedSteps(run))
    has_monitor = bool(run.config.evaluation.monitor_every_steps) and run.config.model.sisa is not None
    if has_monitor or run.config.observation.health_every_steps:
        config = run.config.data
        tokens = read_heldout(config, config.sequence_tokens, _MONITOR_SEQUENCES).sequences[:, :-1]
        is_separate, eos_id = config.documents == "separate", run.stream.manifest.eos_id
        document_BL = torch.from_numpy(number_documents(tokens, eos_id)) if is_separate else None
        if has_monitor:
            run.hooks.append(ImportanceMonitor(run, torch.from_numpy(tokens), document_BL))
        if run.config.observation.health_every_steps:
            run.hooks.append(HealthMonitor(run, tracker, torch.from_numpy(tokens), document_BL))
    if run.config.evaluation.tasks:
        evaluation = Evaluation(run, tracker)
        run.openings.append(evaluation.at_start)
        run.hooks.append(evaluation)
    if run.config.evaluation.samples:
        run.hooks.append(Samples(run, tracker))
