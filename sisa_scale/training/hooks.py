"""What happens after a step: metrics, monitors, evaluation, checkpoints, and refusing to go on from a broken loss."""

import math
from typing import Any

import torch

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.parts import write_part
from sisa_scale.config.run import to_plain
from sisa_scale.errors import CheckpointError, TrainingError
from sisa_scale.evaluation.resources import load_resources
from sisa_scale.evaluation.suite import run_suite
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.utilisation import peak_flops, utilisation
from sisa_scale.training.engine_state import owned_slices
from sisa_scale.training.provenance import now
from sisa_scale.training.run import Run
from sisa_scale.training.state import StepReport, TrainState
from sisa_scale.training.tracker import Tracker


class FiniteLossGuard:
    """Ends the run at a loss or gradient that is not finite; all workers see the same values and end together."""

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Raise TrainingError for a non-finite step."""
        if math.isfinite(report.loss) and math.isfinite(report.gradient_norm):
            return
        raise TrainingError.at(
            f"step {state.step}",
            found=f"loss {report.loss}, gradient norm {report.gradient_norm}",
            allowed="both must be finite",
            remedy="Nothing of it was saved. Lower optimizer.learning_rate or lengthen schedule.warmup, then resume.",
        )


class MetricsLog:
    """Writes one line a step to metrics.jsonl and to wandb."""

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.flops = flops_per_token(run.config.model, run.config.data.sequence_tokens).train
        device = run.workers.device
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.attempt = len(run.directory.attempts()) + 1

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Log a step."""
        tokens_per_second = report.num_tokens / report.step_seconds
        device = self.run.workers.device
        mfu = utilisation(tokens_per_second, self.flops, self.peak, self.run.workers.world_size)
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "tokens_per_second": round(tokens_per_second, 1),
            "step_seconds": round(report.step_seconds, 6),
            "data_wait_seconds": round(report.wait_seconds, 6),
            "mfu": mfu,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "stream_digest": report.stream_digest,
            "attempt": self.attempt,
            "time": now(),
        }
        self.run.directory.append("metrics.jsonl", line)
        self.tracker.log(state.step, {f"train/{k}": v for k, v in line.items() if isinstance(v, int | float)})


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
            self.run.directory.append(
                "monitors.jsonl", {"step": state.step, "half_life_tokens": half_lives, "lambda": lambdas}
            )


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
            line = {"step": state.step, "tokens": state.tokens, "scores": [score.to_json() for score in scores]}
            self.run.directory.append("evaluations.jsonl", line)
            self.tracker.log(state.step, {f"eval/{s.task}/{s.variant}/{s.metric}": s.value for s in scores})


class Checkpointer:
    """Saves every so many steps, when a stop is asked for, and at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Save if it is time."""
        every = self.run.config.checkpoint.every_steps
        if (every and state.step % every == 0) or report.stop_requested or report.is_last:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint with all workers; it counts only when every part is on disk.

        Raises CheckpointError on every worker when one of them could not write; what was written is removed.
        """
        run, workers = self.run, self.run.workers
        if workers.is_main:
            run.store.prepare(state.step)
        workers.barrier()
        staging = run.store.staging_path(state.step)
        parts: list[Any] = workers.gather(self._write_part(staging))
        failures = [part for part in parts if isinstance(part, CheckpointError)]
        if workers.is_main and failures:
            run.store.clear_staging()
        workers.barrier()
        if failures:
            raise failures[0]
        if workers.is_main:
            run.store.commit(state.step, self._manifest(state, parts))
            run.store.prune(run.config.checkpoint.keep_last)
        workers.barrier()

    def _write_part(self, staging: Any) -> Any:
        try:
            return write_part(staging, self.run.workers.rank, owned_slices(self.run.engine), torch.get_rng_state())
        except CheckpointError as error:
            return error

    def _manifest(self, state: TrainState, parts: list[Any]) -> Manifest:
        config, run = self.run.config, self.run
        return Manifest(
            step=state.step,
            tokens=state.tokens,
            config=to_plain(config),
            data_fingerprint=run.stream.fingerprint,
            world_size=run.workers.world_size,
            zero_stage=config.execution.zero_stage,
            shapes=run.engine.shapes,
            slices=tuple(piece for _, pieces in parts for piece in pieces),
            files=tuple(info for info, _ in parts),
        )
