"""Figures of one run, each an SVG string, or None where the run has nothing to show for it."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sisa_scale.reporting.context_figures import context_curve_figure
from sisa_scale.reporting.goodput_figure import goodput_figure
from sisa_scale.reporting.health_figures import health_figures
from sisa_scale.reporting.importance_figures import (
    gradient_shares_figure,
    half_life_figure,
    importance_norms_figure,
    lambda_figure,
    lambda_heads_figure,
    logits_figure,
    phase_change_figure,
)
from sisa_scale.reporting.style import (
    MUTED,
    SERIES,
    error_points,
    legend,
    log_axis,
    mark_resumes,
    new_figure,
    smooth,
    smoothing_span,
    thin,
    to_svg,
)
from sisa_scale.reporting.summary import heldout_losses
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.metrics import StepRow

_STEP = "optimizer step"


def run_figures(run: Run) -> list[str]:
    """Return every figure the run's files allow, in reading order."""
    draw = (
        loss_figure,
        throughput_figure,
        goodput_figure,
        learning_rate_figure,
        gradient_norm_figure,
        context_curve_figure,
        half_life_figure,
        lambda_figure,
        lambda_heads_figure,
        logits_figure,
        importance_norms_figure,
        phase_change_figure,
        gradient_shares_figure,
    )
    return [*(svg for figure in draw if (svg := figure(run)) is not None), *health_figures(run)]


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
    mark_resumes(axes, run)
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
    mark_resumes(axes, run)
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
    mark_resumes(axes, run)
    return to_svg(figure, f"gradient norm {run.path}")


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
