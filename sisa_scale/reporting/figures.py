"""Figures of one run, each an SVG string, or None where the run has nothing to show for it."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sisa_scale.reporting.goodput_figure import goodput_figure
from sisa_scale.reporting.style import (
    INK,
    MUTED,
    SERIES,
    error_points,
    layer_color,
    legend,
    log_axis,
    new_figure,
    smooth,
    smoothing_span,
    thin,
    to_svg,
)
from sisa_scale.reporting.summary import heldout_losses
from sisa_scale.runs.files import Run
from sisa_scale.runs.metrics import StepRow

_STEP = "optimizer step"


def run_figures(run: Run) -> list[str]:
    """Return every figure the run's files allow, in reading order."""
    draw = (
        loss_figure,
        throughput_figure,
        goodput_figure,
        learning_rate_figure,
        gradient_norm_figure,
        half_life_figure,
        lambda_figure,
        lambda_heads_figure,
    )
    return [svg for figure in draw if (svg := figure(run)) is not None]


def loss_figure(run: Run) -> str | None:
    """Training loss raw and smoothed, held-out loss with standard errors, and the unigram entropy."""
    if not run.steps:
        return None
    figure, axes = new_figure("Loss", _STEP, "loss (nats per token)")
    span = smoothing_span(len(run.steps))
    _line(axes, run.steps, lambda row: row.loss, raw=True)
    label = f"training, mean over {span} steps" if span > 1 else "training"
    _line(axes, run.steps, lambda row: row.loss, span=span, label=label)
    if heldout := heldout_losses(run):
        steps = [row.step for row in heldout]
        error_points(axes, steps, heldout, color=SERIES[1], label="held-out ± standard error")
    entropy = next((row.value for row in run.scores if row.metric == "unigram_entropy" and row.value is not None), None)
    if entropy is not None:
        axes.axhline(entropy, color=MUTED, linestyle=(0, (5, 4)), linewidth=1, label="unigram entropy of held-out text")
    _mark_resumes(axes, run)
    legend(axes)
    return to_svg(figure, f"loss {run.path}")


def learning_rate_figure(run: Run) -> str | None:
    """Learning rate over steps."""
    if not run.steps:
        return None
    figure, axes = new_figure("Learning rate", _STEP, "learning rate")
    _line(axes, run.steps, lambda row: row.learning_rate)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    axes.yaxis.get_offset_text().set(color=MUTED, fontsize=9)
    return to_svg(figure, f"learning rate {run.path}")


def throughput_figure(run: Run) -> str | None:
    """Tokens per second of each step, and the median."""
    if not run.steps:
        return None
    figure, axes = new_figure("Throughput", _STEP, "tokens per second")
    _line(axes, run.steps, lambda row: row.tokens_per_second, raw=True)
    _line(axes, run.steps, lambda row: row.tokens_per_second, span=smoothing_span(len(run.steps)))
    median = float(np.median([row.tokens_per_second for row in run.steps]))
    axes.axhline(median, color=SERIES[1], linewidth=1, linestyle=(0, (5, 4)), label=f"median {median:,.0f} tokens/s")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    _mark_resumes(axes, run)
    legend(axes)
    return to_svg(figure, f"throughput {run.path}")


def gradient_norm_figure(run: Run) -> str | None:
    """Norm of the gradient before clipping, on a logarithmic axis."""
    if not run.steps:
        return None
    figure, axes = new_figure("Gradient norm before clipping", _STEP, "norm (log scale)")
    span = smoothing_span(len(run.steps))
    _line(axes, run.steps, lambda row: row.gradient_norm, raw=True)
    _line(axes, run.steps, lambda row: row.gradient_norm, span=span)
    if any(row.gradient_norm > 0 for row in run.steps):
        log_axis(axes)
    _mark_resumes(axes, run)
    return to_svg(figure, f"gradient norm {run.path}")


def half_life_figure(run: Run) -> str | None:
    """Half-life of the decay of each layer: after so many tokens importance has halved."""
    if not run.monitors:
        return None
    figure, axes = new_figure("Half-life of importance, by layer", _STEP, "half-life (tokens, log scale)")
    _layers(axes, run, [row.half_life_tokens for row in run.monitors])
    log_axis(axes)
    return to_svg(figure, f"half-life {run.path}")


def lambda_figure(run: Run) -> str | None:
    """Weight λ of importance beside content, mean over heads, of each layer over steps."""
    if not run.monitors or not all(run.monitors[-1].lambda_):
        return None
    figure, axes = new_figure("Weight λ of importance, mean over heads, by layer", _STEP, "λ")
    _layers(axes, run, [[float(np.mean(heads)) for heads in row.lambda_] for row in run.monitors])
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


def _layers(axes: Axes, run: Run, per_step: Sequence[Sequence[float]]) -> None:
    """One line a layer on a colour ramp; the first and the last layer are named at their right ends."""
    steps = np.array([row.step for row in run.monitors], dtype=float)
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
    _mark_resumes(axes, run)


def _line(
    axes: Axes,
    rows: Sequence[StepRow],
    value: Callable[[StepRow], float],
    *,
    span: int = 1,
    raw: bool = False,
    label: str | None = None,
) -> None:
    """Draw a value over steps; `raw` faint behind the smoothed one, a single step as a dot."""
    values = np.array([value(row) for row in rows])
    x, y = thin(np.array([row.step for row in rows], dtype=float), smooth(values, span) if span > 1 else values)
    alpha, width = (0.28, 0.8) if raw else (1.0, 1.6)
    marker = "o" if len(rows) == 1 else None
    axes.plot(x, y, color=SERIES[0], alpha=alpha, linewidth=width, marker=marker, markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def _mark_resumes(axes: Axes, run: Run) -> None:
    """A thin line at every step from which an attempt took the run up again."""
    resumes = [row.from_step for row in run.attempts[1:] if row.from_step is not None]
    for index, step in enumerate(resumes):
        axes.axvline(step, color=INK, alpha=0.35, linewidth=0.8, label="resumed" if index == 0 else None, zorder=0.5)
