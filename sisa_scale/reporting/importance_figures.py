"""Figures of what a run's monitors read of SISA's importance term, each an SVG string, or None without readings."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sisa_scale.reporting.style import (
    INK,
    MUTED,
    SERIES,
    layer_color,
    legend,
    log_axis,
    mark_resumes,
    new_figure,
    thin,
    to_svg,
)
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.health import HealthRow
from sisa_scale.runs.logs.monitors import MonitorRow

_STEP = "optimizer step"


def half_life_figure(run: Run) -> str | None:
    """Half-life of the decay of each layer: after so many tokens importance has halved."""
    if not any(np.isfinite(row.half_life_tokens).any() for row in run.monitors):
        return None
    figure, axes = new_figure("Half-life of importance, by layer", _STEP, "half-life (tokens, log scale)")
    layer_lines(axes, run, [row.half_life_tokens for row in run.monitors], run.monitors)
    log_axis(axes)
    return to_svg(figure, f"half-life {run.path}")


def lambda_figure(run: Run) -> str | None:
    """Weight λ of importance beside content, mean over heads, of each layer over steps."""
    if not run.monitors or not all(run.monitors[-1].lambda_):
        return None
    figure, axes = new_figure("Weight λ of importance, mean over heads, by layer", _STEP, "λ")
    layer_lines(axes, run, [[float(np.mean(heads)) for heads in row.lambda_] for row in run.monitors], run.monitors)
    return to_svg(figure, f"lambda {run.path}")


def lambda_heads_figure(run: Run) -> str | None:
    """λ of every head at the last monitored step, and the mean of each layer."""
    if not run.monitors or not all(run.monitors[-1].lambda_):
        return None
    last = run.monitors[-1]
    figure, axes = new_figure(f"Weight λ of every head at step {last.step:,}", "layer", "λ")
    for layer, heads in enumerate(last.lambda_):
        color = layer_color(layer, len(last.lambda_))
        axes.scatter([layer + 1] * len(heads), heads, s=18, color=color, alpha=0.65, linewidths=0)
        axes.hlines(float(np.mean(heads)), layer + 0.7, layer + 1.3, color=INK, linewidth=1.6)
    axes.plot([], [], color=INK, linewidth=1.6, label="mean of the layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    axes.grid(visible=False, axis="x")
    legend(axes)
    return to_svg(figure, f"lambda of heads {run.path}")


def logits_figure(run: Run) -> str | None:
    """Largest importance logit of each layer over steps, and the largest content logit of all layers."""
    rows = [row for row in run.monitors if row.largest_importance_logit]
    if not rows:
        return None
    figure, axes = new_figure("Largest importance logit, by layer", _STEP, "absolute logit (log scale)")
    layer_lines(axes, run, [row.largest_importance_logit for row in rows], rows)
    content = [np.max(row.largest_content_logit) for row in rows]
    dashes = (0, (5, 4))
    axes.plot([row.step for row in rows], content, color=INK, linestyle=dashes, label="largest content logit")
    log_axis(axes)
    legend(axes)
    return to_svg(figure, f"logits {run.path}")


def importance_norms_figure(run: Run) -> str | None:
    """Norms of C and B over steps: the mean of the layers, and their range."""
    rows = [row for row in run.monitors if row.norm_c and row.norm_b]
    if not rows:
        return None
    figure, axes = new_figure("Norms of C (queries) and B (keys)", _STEP, "norm (log scale)")
    steps = [row.step for row in rows]
    for name, color, values in (
        ("C", SERIES[0], np.array([row.norm_c for row in rows])),
        ("B", SERIES[1], np.array([row.norm_b for row in rows])),
    ):
        marker = "o" if len(rows) == 1 else None
        axes.plot(steps, values.mean(1), color=color, marker=marker, label=f"{name}, mean and range of the layers")
        axes.fill_between(steps, values.min(1), values.max(1), color=color, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    log_axis(axes)
    mark_resumes(axes, run)
    legend(axes)
    return to_svg(figure, f"norms {run.path}")


def phase_change_figure(run: Run) -> str | None:
    """By how much one optimizer step changes the phases at the end of a sequence, of each layer over steps."""
    rows = [row for row in run.monitors if any(row.phase_change_radians)]
    if not rows:
        return None
    title = "Change of the phase at the last token in one step, by layer"
    figure, axes = new_figure(title, _STEP, "radians, root mean square (log scale)")
    layer_lines(axes, run, [row.phase_change_radians for row in rows], rows)
    log_axis(axes)
    return to_svg(figure, f"phase change {run.path}")


def gradient_shares_figure(run: Run) -> str | None:
    """Share of groups of weights in the squared norm of the gradient, stacked: the largest, and all others."""
    rows = [row for row in run.monitors if row.gradient_shares]
    if not rows:
        return None
    figure, axes = new_figure("Whose the gradient is", _STEP, "share of the squared norm")
    groups = {name for row in rows for name in row.gradient_shares}
    shares = {name: np.array([row.gradient_shares.get(name, 0.0) for row in rows]) for name in groups}
    largest = sorted(groups, key=lambda name: (-shares[name].mean(), name))[: len(SERIES)]
    others = 1 - np.sum([shares[name] for name in largest], axis=0)
    steps = np.array([row.step for row in rows], dtype=float)
    if len(steps) == 1:  # an area has a width
        steps, others = steps + np.array([-0.5, 0.5]), others.repeat(2)
        shares = {name: values.repeat(2) for name, values in shares.items()}
    stack = [*(shares[name] for name in largest), np.maximum(others, 0.0)]
    colors = [*SERIES[: len(largest)], MUTED]
    axes.stackplot(steps, *stack, colors=colors, labels=[*largest, "others"], alpha=0.85, linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_xlim(steps[0], steps[-1])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=8.5, frameon=False, labelcolor=INK)
    return to_svg(figure, f"gradient shares {run.path}")


def layer_lines(
    axes: Axes, run: Run, per_step: Sequence[Sequence[float]], rows: Sequence[MonitorRow] | Sequence[HealthRow]
) -> None:
    """One line a layer on a colour ramp; the first and the last layer are named at their right ends."""
    steps = np.array([row.step for row in rows], dtype=float)
    ends = per_step[-1]
    marker = "o" if len(steps) == 1 else None
    for layer in range(len(ends)):
        values = np.array([row[layer] if layer < len(row) else np.nan for row in per_step])
        color = layer_color(layer, len(ends))
        is_outer = layer in (0, len(ends) - 1)
        axes.plot(*thin(steps, values), color=color, linewidth=1.8 if is_outer else 1.0, marker=marker)
        if is_outer:
            # The greater of the two stands above its line, so that the names never cover one another.
            side = "bottom" if values[-1] > min(ends[0], ends[-1]) else "top"
            name, end = f"layer {layer + 1}", (steps[-1], values[-1])
            axes.annotate(name, end, (5, 0), textcoords="offset points", va=side, color=color, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    mark_resumes(axes, run)
