"""What happens after a step, besides metrics, guard and checkpoints: monitors and evaluation."""

import time

import torch

from sisa_scale.evaluation.resources import load_resources
from sisa_scale.evaluation.suite import run_suite
from sisa_scale.faults import fault_point
from sisa_scale.runs.evaluations import ScoreRow
from sisa_scale.runs.monitors import MonitorRow
from sisa_scale.training.hooks.tracker import Tracker, evaluation_values
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class ImportanceMonitor:
    """Writes the half-life and lambda of every SISA layer, read on the first held-out sequences."""

    def __init__(self, run: Run, tokens_BL: torch.Tensor, document_BL: torch.Tensor | None = None) -> None:
        self.run, self.tokens_BL, self.document_BL = run, tokens_BL, document_BL

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Read the layers every so many steps and at the end; all workers read together."""
        every = self.run.config.evaluation.monitor_every_steps
        if not every or (state.step % every and not report.is_last):
            return
        layers = self.run.engine.monitor(self.tokens_BL, self.document_BL)
        if self.run.workers.is_main and layers:
            half_lives, lambdas = [layer.half_life_tokens for layer in layers], [layer.lambda_H for layer in layers]
            self.run.directory.add_monitor(MonitorRow(state.step, half_lives, lambdas))


class Evaluation:
    """Scores the configured tasks every so many steps and at the end, on all workers together."""

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.resources = load_resources(run.config)

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Evaluate if it is time."""
        settings, workers = self.run.config.evaluation, self.run.workers
        is_due = settings.every_steps and state.step % settings.every_steps == 0
        if not (is_due or report.is_last) or not settings.tasks:
            return
        if report.is_preempted and not report.is_last:  # the time that is left is for the checkpoint
            if workers.is_main:
                self.run.directory.event("evaluation_skipped", step=state.step, reason="preemption")
            return
        started = time.perf_counter()
        with self.run.heart.phase("evaluation", state.step):
            fault_point("evaluation.before_score")
            scores = run_suite(
                settings.tasks,
                self.run.engine.score,
                self.resources,
                batch_size=settings.batch_sequences,
                rank=workers.rank,
                world_size=workers.world_size,
                gather=workers.gather,
            )
        if workers.is_main:
            rows = [ScoreRow(step=state.step, tokens=state.tokens, **score.to_json()) for score in scores]
            self.run.directory.add_scores(rows)
            self.run.directory.event("evaluation", step=state.step, seconds=round(time.perf_counter() - started, 3))
            self.tracker.log(state.step, evaluation_values(rows))
