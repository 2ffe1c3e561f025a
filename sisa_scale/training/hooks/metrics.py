"""One line a step, to metrics.jsonl and to wandb."""

import math

import torch

from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.mfu import peak_flops, utilisation
from sisa_scale.runs.directory import METRICS
from sisa_scale.runs.provenance import now
from sisa_scale.training.hooks.tracker import Tracker, train_values
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class MetricsLog:
    """Writes one line a step to metrics.jsonl and to wandb."""

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.flops = flops_per_token(run.config.model, run.config.data.sequence_tokens).train
        device = run.workers.device
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.attempt = run.directory.current_attempt()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Log a step."""
        tokens_per_second = report.num_tokens / report.step_seconds
        device = self.run.workers.device
        mfu = utilisation(tokens_per_second, self.flops, self.peak, self.run.workers.world_size)
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": _finite(report.loss),
            "learning_rate": report.learning_rate,
            "gradient_norm": _finite(report.gradient_norm),
            "tokens_per_second": round(tokens_per_second, 1),
            "step_seconds": round(report.step_seconds, 6),
            "data_wait_seconds": round(report.wait_seconds, 6),
            "mfu": mfu,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "stream_digest": report.stream_digest,
            "attempt": self.attempt,
            "time": now(),
        }
        if report.refusal is not None:
            line["skipped"] = True
        self.run.directory.append(METRICS, line)
        self.tracker.log(state.step, train_values(line))


def _finite(value: float) -> float | None:
    """Return a number that JSON has."""
    return value if math.isfinite(value) else None
