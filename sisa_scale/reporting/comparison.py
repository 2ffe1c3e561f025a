"""Figures that set several runs side by side, each an SVG string."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sisa_scale.reporting.style import (
    INK,
    SERIES,
    WIDTH_INCHES,
    dress,
    error_points,
    legend,
    new_figure,
    plain,
    smooth,
    smoothing_span,
    thin,
    to_svg,
)
from sisa_scale.reporting.summary import headline_scores, heldout_losses
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow

_LONG_RUN_STEPS = 100
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


def comparison_figures(runs: Sequence[Run]) -> list[str]:
    """Return loss over tokens of all runs, and their last scores; empty for fewer than two runs."""
    if len(runs) < 2:
        return []
    return [svg for svg in (loss_comparison(runs), score_comparison(runs)) if svg is not None]


def loss_comparison(runs: Sequence[Run]) -> str | None:
    """Training loss (smoothed) and held-out loss of every run over tokens."""
    if not any(run.steps for run in runs):
        return None
    limits = _without_start(runs)
    title = "Loss of all runs" + (", without the first 5 %" if limits else "")
    figure, axes = new_figure(title, "training tokens", "loss (nats per token)", height=4.2)
    for index, run in enumerate(runs):
        color, dashes = _style(index)
        tokens = np.array([row.tokens for row in run.steps], dtype=float)
        losses = smooth([row.loss for row in run.steps], smoothing_span(len(run.steps)))
        marker = "o" if len(tokens) == 1 else None
        axes.plot(
            *thin(tokens, losses), color=color, linestyle=dashes, linewidth=1.5, marker=marker, label=plain(run.name)
        )
        if heldout := heldout_losses(run):
            error_points(axes, [row.tokens for row in heldout], heldout, color=color)
    if any(heldout_losses(run) for run in runs):
        axes.plot([], [], color=INK, marker="o", linestyle="", markersize=4, label="held-out ± standard error")
    if limits:
        axes.set_ylim(limits)
    legend(axes)
    return to_svg(figure, "loss of " + " ".join(str(run.path) for run in runs))


def score_comparison(runs: Sequence[Run]) -> str | None:
    """Bars of the last headline scores with their standard errors, one panel a score, one bar a run."""
    last = [{(row.task, row.variant, row.metric): row for row in headline_scores(run)} for run in runs]
    keys = list(dict.fromkeys(key for scores in last for key in scores))
    if not keys:
        return None
    panel_inches = 0.8 + 0.3 * len(runs)
    figure = Figure(figsize=(WIDTH_INCHES, panel_inches * len(keys)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr, call-arg]
    FigureCanvasSVG(figure)
    panels = figure.subplots(len(keys), 1, squeeze=False)[:, 0]
    for axes, key in zip(panels, keys, strict=True):
        _bars(axes, [run.name for run in runs], [scores.get(key) for scores in last])
    return to_svg(figure, "scores of " + " ".join(str(run.path) for run in runs))


def _without_start(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Return loss limits without the steep start of long runs, which would press all differences into one line."""
    if max(len(run.steps) for run in runs) < _LONG_RUN_STEPS:
        return None
    top = max(run.steps[len(run.steps) // 20].loss for run in runs if run.steps)
    least = min(row.loss for run in runs for row in run.steps)
    return (least - 0.05 * (top - least), top) if np.isfinite([least, top]).all() and top > least else None


def _bars(axes: Axes, names: Sequence[str], rows: Sequence[ScoreRow | None]) -> None:
    known = next(row for row in rows if row is not None)
    dress(axes, f"{known.task} · {known.metric.replace('_', ' ')} ({known.unit}) on {known.variant}", "", "")
    axes.grid(visible=False, axis="y")
    for index, row in enumerate(rows):
        if row is None or row.value is None:
            axes.annotate("not run", (0, index), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
            continue
        error = row.standard_error or 0.0
        axes.barh(
            index, row.value, xerr=error, height=0.62, color=_style(index)[0],
            error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2.5},
        )  # fmt: skip
        text = f"{row.value:.3g} ± {error:.2g}" if row.standard_error else f"{row.value:.3g}"
        end = (row.value + error, index)
        axes.annotate(text, end, xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(names)), [plain(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    greatest = max((row.value + (row.standard_error or 0) for row in rows if row and row.value is not None), default=1)
    axes.set_xlim(0, (greatest or 1) * 1.22)
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")


def _style(index: int) -> tuple[str, object]:
    """Colour first, then dashes, so that more runs than colours stay apart."""
    return SERIES[index % len(SERIES)], _DASHES[index // len(SERIES) % len(_DASHES)]
