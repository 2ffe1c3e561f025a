"""What happens after a step, besides metrics, guard and checkpoints: monitors and evaluation."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from sisa_scale.evaluation.resources import load_resources
from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.suite import run_suite
from sisa_scale.evaluation.tasks.heldout import TASK as HELDOUT
from sisa_scale.faults import fault_point
from sisa_scale.models.monitors import GradientShares, LayerMonitor, phase_change
from sisa_scale.runs.logs.evaluations import ScoreRow, scores_so_far
from sisa_scale.runs.logs.monitors import MonitorRow
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.hooks.writer import evaluation_values
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class ImportanceMonitor:
    """Writes what every SISA layer does, read on the first held-out sequences, and whose the gradient is.

    What a step changes takes a reading before it and one after it. Nothing of it changes a number of the training.
    """

    def __init__(self, run: Run, tokens_BL: torch.Tensor, document_BL: torch.Tensor | None = None) -> None:
        self.run, self.tokens_BL, self.document_BL = run, tokens_BL, document_BL
        self._gradients: GradientShares | None = None
        self._before: tuple[int, list[LayerMonitor]] | None = None

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Read the layers before and after every so many steps and at the end; all workers read together."""
        is_due, is_next_due = report.is_last or self._is_due(state.step), self._is_due(state.step + 1)
        if not (is_due or is_next_due):
            return
        layers = self.run.engine.monitor(self.tokens_BL, self.document_BL)
        if not (self.run.workers.is_main and layers):
            return
        if self._gradients is None:
            self._gradients = GradientShares(self.run.engine.model)
        if is_due:
            self._write(state.step, layers)
        if is_next_due:
            self._gradients.read_next()
        self._before = state.step, layers

    def _is_due(self, step: int) -> bool:
        return step % self.run.config.evaluation.monitor_every_steps == 0 or step == self.run.config.total_steps

    def _write(self, step: int, layers: list[LayerMonitor]) -> None:
        changes: list[float] = []
        if self._before is not None and self._before[0] == step - 1:
            changes = [phase_change(*pair) for pair in zip(self._before[1], layers, strict=True)]
        assert self._gradients is not None
        row = MonitorRow(
            step,
            half_life_tokens=[layer.half_life_tokens for layer in layers],
            lambda_=[layer.lambda_H for layer in layers],
            largest_content_logit=[layer.largest_content_logit for layer in layers],
            largest_importance_logit=[layer.largest_importance_logit for layer in layers],
            norm_c=[layer.norm_c for layer in layers],
            norm_b=[layer.norm_b for layer in layers],
            phase_change_radians=changes,
            gradient_shares=self._gradients.take() or {},
        )
        self.run.directory.add_monitor(row)


class Evaluation:
    """Scores the configured tasks every so many steps and at the end, on all workers together; and before step 1.

    A moving average of the weights is scored on the held-out loss alone; its metrics begin with `ema_`.
    """

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.resources = load_resources(run.config)

    def at_start(self, state: TrainState) -> None:
        """Evaluate the weights that the run begins with, once: a life that begins anew finds the scores there."""
        workers = self.run.workers
        if state.step or not self.run.config.evaluation.at_start:
            return
        has_scores = workers.is_main and any(row.step == 0 for row in scores_so_far(self.run.directory.path))
        if not workers.broadcast(has_scores):
            self._evaluate(state)

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
        self._evaluate(state)

    def _evaluate(self, state: TrainState) -> None:
        settings, workers = self.run.config.evaluation, self.run.workers
        started = time.perf_counter()
        with self.run.heart.phase("evaluation", state.step):
            fault_point("evaluation.before_score")
            scores = self._scores(settings.tasks)
            if self.run.config.optimizer.ema_half_life_tokens is not None and HELDOUT in settings.tasks:
                with self.run.engine.averaged():
                    found = [score for score in self._scores([HELDOUT]) if score.metric != "unigram_entropy"]
                scores += [replace(score, metric=f"ema_{score.metric}") for score in found]
        self.run.check_fence()  # it may have taken long enough for another life to begin
        if workers.is_main:
            rows = [ScoreRow(step=state.step, tokens=state.tokens, **score.to_json()) for score in scores]
            self.run.directory.add_scores(rows)
            self.run.directory.event("evaluation", step=state.step, seconds=round(time.perf_counter() - started, 3))
            self.tracker.log(state.step, evaluation_values(rows))

    def _scores(self, tasks: Sequence[str]) -> list[Score]:
        workers = self.run.workers
        return run_suite(
            tasks,
            self.run.engine.score,
            self.resources,
            batch_size=self.run.config.evaluation.batch_sequences,
            rank=workers.rank,
            world_size=workers.world_size,
            gather=workers.gather,
        )
