"""What a step of a trial cost: tokens, FLOPs, and time on a named device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sisa_scale.errors import DataError
from sisa_scale.runs.files import Run
from sisa_scale.studies.directory import Planned

CostKind = Literal["tokens", "steps", "flops", "seconds"]
COST_KINDS: tuple[CostKind, ...] = get_args(CostKind)
_LABELS = {"tokens": "training tokens", "steps": "optimizer step", "flops": "training FLOPs"}


@dataclass(frozen=True, slots=True)
class CostAxis:
    """The axis of cost of a figure. scale: how `log_scale` writes its numbers; device: of an axis in seconds."""

    kind: CostKind = "tokens"
    device: str = ""

    @property
    def label(self) -> str:
        """What stands beside the axis."""
        return f"seconds x workers on {self.device}" if self.kind == "seconds" else _LABELS[self.kind]

    @property
    def scale(self) -> str:
        """How `scaling.figures.plot.log_scale` writes its numbers."""
        return "flops" if self.kind == "flops" else "count"

    def of(self, trial: Planned, run: Run, steps: Sequence[int]) -> np.ndarray:
        """Return the cost of a trial up to each of the steps, those of its trunk included."""
        share = np.array(steps, dtype=float) / trial.total_steps
        if self.kind == "steps":
            return share * trial.total_steps
        if self.kind == "seconds":
            logged = [row.step for row in run.steps]
            return np.concatenate([[0.0], device_seconds(run)])[np.searchsorted(logged, steps, side="right")]
        return share * float(trial.values["tokens" if self.kind == "tokens" else "train_flops"])


def cost_axis(kind: CostKind, runs: Sequence[Run]) -> CostAxis:
    """Return the axis for figures of these runs; raises DataError for seconds on different devices."""
    if kind != "seconds":
        return CostAxis(kind)
    devices = sorted({device_of(run) for run in runs})
    if len(devices) > 1:
        raise DataError.at(
            "cost in seconds",
            found=f"trials on {len(devices)} kinds of device: {'; '.join(devices)}",
            allowed="seconds compare on one kind of device",
            remedy="Choose --over tokens or --over flops.",
        )
    return CostAxis(kind, devices[0] if devices else "")


def device_of(run: Run) -> str:
    """Return the name of the device that a run was trained on, all names where its attempts had several."""
    records = [record.provenance for record in run.records.values()] or [run.provenance]
    return ", ".join(sorted({_device(provenance.get("hardware")) for provenance in records}))


def device_seconds(run: Run) -> np.ndarray:
    """Return the wall time of all steps up to each step, times the workers that took them."""
    last = run.attempts[-1].world_size if run.attempts else 1
    workers = {attempt.attempt: attempt.world_size for attempt in run.attempts}
    return np.cumsum([row.step_seconds * workers.get(row.attempt, last) for row in run.steps])


def _device(hardware: object) -> str:
    if not isinstance(hardware, dict):
        return "an unknown device"
    gpus = hardware.get("gpus")
    return str(gpus[0]) if gpus else f"CPU with {hardware.get('num_cpus', '?')} cores"
