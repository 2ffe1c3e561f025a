"""The losses of tuning trials over the rate, a panel for each architecture: parabola, optimum and its interval."""

from collections.abc import Sequence

import numpy as np

from sisa_scale.reporting.style import legend
from sisa_scale.scaling.figures.plot import Plot, color, finish, log_scale, panels
from sisa_scale.studies.tuning.optima import Tuned


def rate_curves(tuned: Sequence[Tuned]) -> Plot | None:
    """Return the figure, None where nothing was tuned."""
    if not tuned:
        return None
    titles = [(one.architecture, "peak learning rate", "held-out loss (nats per token)") for one in tuned]
    figure, axes = panels(titles, min(2, len(tuned)), row_inches=3.0)
    rows = []
    for index, (panel, one) in enumerate(zip(axes, tuned, strict=True)):
        optimum, shade = one.optimum, color(index)
        ended = [row for row in one.trials if row["loss"] is not None]
        rates = np.geomspace(min(row["rate"] for row in one.trials), max(row["rate"] for row in one.trials), 100)
        inside = rates[(rates >= min(optimum.fitted) / 1.01) & (rates <= max(optimum.fitted) * 1.01)]
        panel.plot(inside, optimum.loss_at(inside), color=shade, linewidth=1.3, label="parabola")
        for row in ended:
            is_fitted = row["rate"] in optimum.fitted
            panel.plot(
                [row["rate"]], [row["loss"]], marker="o", markersize=4.5, linestyle="", color=shade,
                markerfacecolor=shade if is_fitted else "none",
            )  # fmt: skip
        if optimum.interval is not None:
            low, high = np.clip(optimum.interval, rates[0], rates[-1])
            panel.axvspan(low, high, color=shade, alpha=0.15, linewidth=0, label=f"{optimum.level:.0%} interval")
        panel.axvline(
            optimum.rate, color=shade, linewidth=1, linestyle=(0, (4, 2)), label=f"optimum {optimum.rate:.3g}"
        )
        for rate in sorted({row["rate"] for row in one.trials if row["loss"] is None}):
            panel.plot([rate], [0.97], marker="x", markersize=6, linestyle="", color=shade,
                       transform=panel.get_xaxis_transform())  # fmt: skip
        log_scale(panel, "x", "number")
        legend(panel)
        rows += [
            {
                "architecture": one.architecture,
                **row,
                "optimum": optimum.rate,
                "is_fitted": row["rate"] in optimum.fitted,
            }
            for row in one.trials
        ]
    caption = (
        "Held-out loss of the tuning trials, the parabola through those near the best (filled; a mean over seeds), "
        "its vertex and the interval of the vertex. Crosses: trials that diverged."
    )
    return finish("learning_rates", figure, rows, caption)
