"""One row a step, to the run directory and to all who look on."""

from datetime import UTC, datetime

import torch

from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.mfu import peak_flops, utilisation
from sisa_scale.runs.logs.metrics import StepRow
from sisa_scale.training.hooks.exporter import Exporter
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.hooks.writer import train_values
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class MetricsLog:
    """Notes every step in the run directory, and tells the writers and Prometheus of it."""

    def __init__(self, run: Run, tracker: Tracker, exporter: Exporter | None = None) -> None:
        self.run, self.tracker, self.exporter = run, tracker, exporter
        self.flops = flops_per_token(run.config.model, run.config.data.sequence_tokens).train
        device = run.workers.device
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.attempt = run.directory.current_attempt()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Log a step."""
        tokens_per_second = report.num_tokens / report.step_seconds
        device = self.run.workers.device
        mfu = utilisation(tokens_per_second, self.flops, self.peak, self.run.workers.world_size)
        row = StepRow(
            step=state.step,
            tokens=state.tokens,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens_per_second=round(tokens_per_second, 1),
            step_seconds=round(report.step_seconds, 6),
            data_wait_seconds=round(report.wait_seconds, 6),
            mfu=mfu,
            peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            stream_digest=report.stream_digest,
            attempt=self.attempt,
            time=datetime.now(UTC),
            skipped=report.refusal is not None,
        )
        self.run.directory.add_step(row)
        self.tracker.log(state.step, train_values(row))
        if self.exporter is not None:
            self.exporter.update(row)
