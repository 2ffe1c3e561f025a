"""The health of every layer, every so many steps (`observation.health_every_steps`)."""

import math
from collections import deque

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.models.health import read_blocks
from sisa_scale.models.monitors import GradientShares
from sisa_scale.runs.logs.health import HealthRow, read_health
from sisa_scale.training.engine.zero_layout import local_slices
from sisa_scale.training.health.numerics import REMEMBERED, symptoms
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class HealthMonitor:
    """Reads every layer after a step that is due, and the weights before it; changes no number of the training.

    A copy of the weights that this worker updates is kept over such a step, in the memory of the host.
    """

    def __init__(self, run: Run, tracker: Tracker, tokens_BL: Tensor, document_BL: Tensor | None = None) -> None:
        self.run, self.tracker, self.tokens_BL, self.document_BL = run, tracker, tokens_BL, document_BL
        self._gradients: GradientShares | None = None
        self._before: dict[tuple[str, int], Tensor] = {}
        self._rows: deque[HealthRow] = deque(maxlen=REMEMBERED)
        if run.workers.is_main:
            self._rows.extend(read_health(run.directory.path))
        self._warned: set[str] = set()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Read after a step that is due, and prepare for the next one if that is."""
        if self._is_due(state.step):
            self._read(state.step)
        self._before = {}
        if self._is_due(state.step + 1):
            self._before = {place: values.to("cpu", copy=True) for place, values in self._weights().items()}
            if self.run.workers.is_main:
                self._gradients = self._gradients or GradientShares(self.run.engine.model)
                self._gradients.read_next()

    def _is_due(self, step: int) -> bool:
        return step % self.run.config.observation.health_every_steps == 0

    def _weights(self) -> dict[tuple[str, int], Tensor]:
        pieces = local_slices(self.run.engine)
        return {(piece.name, piece.start): piece.values for piece in pieces if piece.kind == WEIGHT}

    def _read(self, step: int) -> None:
        readings = self.run.engine.observe(read_blocks, self.tokens_BL, self.document_BL)
        ratios = self._update_ratios(len(readings))
        if not self.run.workers.is_main:
            return
        norms = (
            self._gradients.block_norms(len(readings)) if self._gradients is not None else [math.nan] * len(readings)
        )
        row = HealthRow(step, norms, [r.activation_rms for r in readings], [r.largest_logit for r in readings], ratios)
        self.run.directory.add_health(row)
        self._rows.append(row)
        largest = {name: max(values) for name in ("gradient_norm", "activation_rms", "largest_logit", "update_ratio")
                   if (values := [x for x in getattr(row, name) if math.isfinite(x)])}  # fmt: skip
        self.tracker.log(step, {f"health/{name}": value for name, value in largest.items()})
        found = symptoms(tuple(self._rows))
        for symptom in found:
            if symptom.rule not in self._warned:  # said again when it was gone in between
                self.run.directory.event("health", step=step, **symptom._asdict())
        self._warned = {symptom.rule for symptom in found}

    def _update_ratios(self, num_blocks: int) -> list[float]:
        """Return the norm of the last step's change over that of the weights, by block; all workers together."""
        squares = torch.zeros(num_blocks, 2, dtype=torch.float64)
        for (name, start), values in self._weights().items():
            block, before = block_of(name), self._before.get((name, start))
            if block is not None and before is not None:
                old = before.to(values.device)
                squares[block, 0] += (values - old).double().square().sum().cpu()
                squares[block, 1] += old.double().square().sum().cpu()
        changes = self.run.workers.sum(squares).tolist()
        return [math.sqrt(change / whole) if whole else math.nan for change, whole in changes]


def block_of(parameter: str) -> int | None:
    """Return the number of the block that a parameter belongs to, from 0; None for others."""
    parts = parameter.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None
