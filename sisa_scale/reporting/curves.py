"""The curves of runs as plain numbers, for the part of a page that can be zoomed (`curves.js`)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sisa_scale.reporting.style import thin
from sisa_scale.reporting.summary import heldout_losses
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.metrics import StepRow

MEASURES: Mapping[str, Callable[[StepRow], float | None]] = {
    "training loss (nats per token)": lambda row: row.loss,
    "gradient norm": lambda row: row.gradient_norm,
    "learning rate": lambda row: row.learning_rate,
    "tokens per second": lambda row: row.tokens_per_second,
    "seconds of a step": lambda row: row.step_seconds,
}
HELDOUT = "held-out loss (nats per token)"


def curves(runs: Sequence[Run]) -> dict[str, Any]:
    """Return {"measures": names, "runs": [{"name", "curves": {measure: {"step", "tokens", "value"}}}]}.

    Long curves are thinned, the least and the greatest value of every stretch kept; what is not finite is null.
    """
    return {
        "measures": [*MEASURES, HELDOUT],
        "runs": [{"name": run.name, "path": str(run.path), "curves": _curves(run)} for run in runs],
    }


def _curves(run: Run) -> dict[str, dict[str, list[float | None]]]:
    steps = np.array([row.step for row in run.steps], dtype=float)
    tokens = {float(row.step): float(row.tokens) for row in run.steps}
    found = {}
    for name, read in MEASURES.items():
        values = np.array([read(row) if read(row) is not None else math.nan for row in run.steps], dtype=float)
        x, y = thin(steps, values) if len(steps) else (steps, values)
        found[name] = {
            "step": x.tolist(),
            "tokens": [tokens[step] for step in x.tolist()],
            "value": _finite(y.tolist()),
        }
    rows = heldout_losses(run)
    losses = _finite([row.value or 0.0 for row in rows])
    steps_read: list[float | None] = [row.step for row in rows]
    found[HELDOUT] = {"step": steps_read, "tokens": [row.tokens for row in rows], "value": losses}
    return found


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
