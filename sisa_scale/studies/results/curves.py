"""Loss curves of a study, a panel for each architecture: trunks, and branches from where they leave them."""

import math
from collections.abc import Sequence

import numpy as np

from sisa_scale.reporting.style import smooth, thin
from sisa_scale.runs.files import read_run
from sisa_scale.runs.layout import METRICS
from sisa_scale.runs.logs.metrics import StepRow
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, log_scale, panels
from sisa_scale.studies.directory import Planned, StudyDirectory
from sisa_scale.studies.results.cost import CostAxis

_SPAN_STEPS = 9


def loss_curves(directory: StudyDirectory, axis: CostAxis | None = None) -> Plot | None:
    """Return the figure of all trials but the tuning ones that have begun over their cost, by default in tokens.

    None where none has.
    """
    axis = axis or CostAxis()
    trials = [trial for trial in directory.trials() if trial.values["role"] != "tuning"]
    begun = [trial for trial in trials if (trial.directory / METRICS).exists()]
    if not begun:
        return None
    architectures = list(dict.fromkeys(trial.values["architecture"] for trial in begun))
    sizes = list(dict.fromkeys(trial.values["size"] for trial in trials))
    figure, axes = panels(
        [(name, axis.label, "training loss (nats per token)") for name in architectures],
        min(2, len(architectures)),
        row_inches=3.1,
    )
    rows = []
    for panel, name in zip(axes, architectures, strict=True):
        for trial in (trial for trial in begun if trial.values["architecture"] == name):
            run = read_run(trial.directory)
            steps, losses = _curve(trial, run.steps)
            cost = axis.of(trial, run, steps)
            if not len(steps):
                continue
            index = sizes.index(trial.values["size"])
            is_branch = trial.values["role"] == "branch"
            style = {"linewidth": 0.9, "linestyle": (0, (3, 1.5))} if is_branch else {"linewidth": 1.3}
            size = f"{trial.values['params_scaling']:,} parameters"
            label = None if is_branch or size in panel.get_legend_handles_labels()[1] else size
            panel.plot(*thin(cost, losses), color=color(index), label=label, **style)
            ends = [s for s in run.scores if (s.step, s.task, s.metric) == (trial.total_steps, "loss", "loss")]
            for score in ends:
                value = math.nan if score.value is None else score.value
                at_end = axis.of(trial, run, [score.step])
                panel.plot(at_end, [value], color=color(index), marker="o", markersize=3.5, linestyle="")
            rows += [
                {"trial": trial.name, axis.kind: round(float(at), 3), "loss": float(loss)}
                for at, loss in zip(*thin(cost, losses), strict=True)
            ]
        log_scale(panel, "x", axis.scale)
    limits = [panel.get_ylim() for panel in axes]
    for panel in axes:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    legend_below(*axes)
    caption = (
        f"Training loss over {axis.label}, mean of {_SPAN_STEPS} steps. Lines: the longest run of a size; dashes: "
        "branches, from where their cooldown begins; dots: held-out loss at the end."
    )
    return finish("loss_curves", figure, rows, caption)


def _curve(trial: Planned, steps: Sequence[StepRow]) -> tuple[list[int], np.ndarray]:
    """Return the numbers and smoothed losses of the steps that are the trial's own, the first few of a run left out."""
    first = max(int(trial.values["branch_step"]) - _SPAN_STEPS, _SPAN_STEPS)
    losses = smooth([row.loss if math.isfinite(row.loss) else math.nan for row in steps], _SPAN_STEPS)
    kept = np.array([row.step > first for row in steps], dtype=bool)
    return [row.step for row in steps if row.step > first], losses[kept]
