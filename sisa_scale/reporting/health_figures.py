"""Figures of the health of every layer, each an SVG string."""

import numpy as np

from sisa_scale.reporting.importance_figures import layer_lines
from sisa_scale.reporting.style import log_axis, new_figure, to_svg
from sisa_scale.runs.files import Run

_SHOWN = {
    "largest_logit": ("Largest attention logit, by layer", "absolute logit (log scale)"),
    "update_ratio": ("Size of a step's update, by layer", "share of the weights' norm (log scale)"),
    "gradient_norm": ("Gradient norm, by layer", "norm of a micro-batch (log scale)"),
    "activation_rms": ("What a block hands on, by layer", "root mean square (log scale)"),
}


def health_figures(run: Run) -> list[str]:
    """Return the figures of what was read; none of what no layer has."""
    figures = []
    for name, (title, unit) in _SHOWN.items():
        values = [getattr(row, name) for row in run.health]
        if not any(np.isfinite(row).any() for row in values):
            continue
        figure, axes = new_figure(title, "optimizer step", unit)
        layer_lines(axes, run, values, run.health)
        log_axis(axes)
        figures.append(to_svg(figure, f"{name} {run.path}"))
    return figures
