"""Figure of the efficiency multiplier over loss."""

import numpy as np

from sisa_scale.reporting.style import MUTED, new_figure, plain
from sisa_scale.scaling.allocation.efficiency import common_losses, frontier_ratio, multiplier_curve
from sisa_scale.scaling.comparison.compare import Comparison
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, log_scale
from sisa_scale.scaling.report.contents import Study


def multiplier_over_loss(study: Study) -> Plot | None:
    """FLOPs of the reference over FLOPs of each architecture, for the losses that both measured."""
    comparison: Comparison | None = study.comparison
    if comparison is None:
        return None
    title = f"Efficiency against {comparison.reference}"
    figure, axes = new_figure(title, f"loss ({study.table.loss_unit})", "multiplier in FLOPs")
    rows = []
    for subject in study.subjects:
        measured = common_losses(study.table, comparison.reference, subject.name)
        if subject.name == comparison.reference or measured is None:
            continue
        losses = np.linspace(measured[0], measured[1], 25)
        middle, low, high = multiplier_curve(
            comparison.fit, comparison.draws, comparison.reference, subject.name, losses, study.level
        )
        direct = [
            frontier_ratio(study.table, comparison.reference, subject.name, "flops", float(loss)) for loss in losses
        ]
        paint = color(subject.index)
        axes.plot(losses, middle, color=paint, linewidth=1.8, label=plain(subject.name))
        axes.fill_between(losses, low, high, color=paint, alpha=0.16, linewidth=0)
        shown = [np.nan if one is None else one for one in direct]
        axes.plot(losses, shown, color=paint, linewidth=1, linestyle=(0, (2, 2)))
        rows += [
            {"architecture": subject.name, "loss": loss, "multiplier": m, "low": a, "high": b, "from_envelopes": d}
            for loss, m, a, b, d in zip(losses, middle, low, high, shown, strict=True)
        ]
    if not rows:
        return None
    axes.plot([], [], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), label="from the envelopes, without a law")
    axes.axhline(1, color=MUTED, linewidth=1)
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    log_scale(axes, "y", "number")
    legend_below(axes)
    caption = (
        f"FLOPs of {comparison.reference} over FLOPs of the architecture: above 1 it needs fewer. Losses that both "
        "measured, lower ones to the right. No curve of the law where its interval spans more than a factor of ten."
    )
    return finish("multiplier", figure, rows, caption)
