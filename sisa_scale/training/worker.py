"""What one worker process does, whoever started it."""

from typing import Literal

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.data.documents import number_documents
from sisa_scale.data.heldout import read_heldout
from sisa_scale.evaluation.resources import check_vocabulary
from sisa_scale.training.checkpointing import Checkpointer
from sisa_scale.training.communicator import connect
from sisa_scale.training.guard import FiniteLossGuard
from sisa_scale.training.hooks import Evaluation, ImportanceMonitor
from sisa_scale.training.loop import train
from sisa_scale.training.metrics import MetricsLog
from sisa_scale.training.run import Hook, Run
from sisa_scale.training.tracker import Tracker

Outcome = Literal["finished", "interrupted"]
_MONITOR_SEQUENCES = 1


def work(config: RunConfig, device: str) -> Outcome:
    """Train with the other workers until the schedule ends or a stop is asked for.

    device: "cpu" or "cuda". Raises a SisaScaleError on every worker when the run cannot go on.
    """
    if device == "cpu":
        torch.set_num_threads(config.resources.cpus_per_worker)
    workers = connect(device)
    run = Run(config, workers)
    check_vocabulary(config, {source.name: source.manifest for source in run.stream.sources})
    tracker = Tracker(config, workers.is_main)
    run.hooks = build_hooks(run, tracker)
    try:
        state = train(run)
    except Exception as error:
        if workers.is_main and run.directory.attempts():
            run.directory.end_attempt("failed", f"{type(error).__name__}: {error}")
        raise
    outcome: Outcome = "finished" if state.step >= config.total_steps else "interrupted"
    tracker.finish()
    if workers.is_main:
        run.directory.end_attempt(outcome)
    workers.barrier()
    return outcome


def build_hooks(run: Run, tracker: Tracker) -> list[Hook]:
    """Return the hooks of a worker in the order they are called; the main worker alone writes logs.

    Checkpoints come last: what a checkpoint has passed is already in the logs.
    """
    hooks: list[Hook] = [FiniteLossGuard()]
    if run.workers.is_main:
        hooks.append(MetricsLog(run, tracker))
    if run.config.evaluation.monitor_every_steps and run.config.model.sisa is not None:
        config = run.config.data
        tokens = read_heldout(config, config.sequence_tokens, _MONITOR_SEQUENCES).sequences[:, :-1]
        is_separate, eos_id = config.documents == "separate", run.stream.manifest.eos_id
        document_BL = torch.from_numpy(number_documents(tokens, eos_id)) if is_separate else None
        hooks.append(ImportanceMonitor(run, torch.from_numpy(tokens), document_BL))
    if run.config.evaluation.tasks:
        hooks.append(Evaluation(run, tracker))
    return [*hooks, Checkpointer(run)]
