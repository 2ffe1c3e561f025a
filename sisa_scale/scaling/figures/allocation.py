"""Figure of the best parameters, tokens and their ratio over compute."""

import numpy as np

from sisa_scale.reporting.style import MUTED, plain
from sisa_scale.scaling.allocation.frontier import allocate
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, log_scale, panels
from sisa_scale.scaling.report.contents import Study, compute_grid


def allocation(study: Study) -> Plot | None:
    """N*, D* and D*/N* over FLOPs with bands, and the isoFLOP vertices."""
    known = [subject for subject in study.subjects if subject.law_5 is not None and subject.laws_B5 is not None]
    if not known:
        return None
    titles = [
        ("Best parameters", "", "parameters"),
        ("Best tokens", "", "tokens"),
        ("Best tokens per parameter", "training FLOPs", "tokens per parameter"),
    ]
    figure, found = panels(titles, 1, row_inches=2.3)
    rows = []
    for subject in known:
        assert subject.law_5 is not None and subject.laws_B5 is not None
        grid, paint = compute_grid(subject.table), color(subject.index)
        best = allocate(subject.law_5, grid, subject.cost)
        drawn = allocate(subject.laws_B5[:, None, :], grid, subject.cost)
        middles = (best.params, best.tokens, best.tokens / best.params)
        clouds = (drawn.params, drawn.tokens, drawn.tokens / drawn.params)
        inside = grid <= subject.table.flops.max()
        columns = {"flops": grid}
        for axes, name, middle, cloud in zip(
            found, ("params", "tokens", "tokens_per_parameter"), middles, clouds, strict=True
        ):
            bands = [study.interval(cloud[:, i]) or [np.nan, np.nan] for i in range(len(grid))]
            low, high = np.array(bands).T
            label = plain(subject.name) if len(study.subjects) > 1 else "law, with band"
            axes.plot(grid[inside], middle[inside], color=paint, linewidth=1.7, label=label)
            axes.plot(grid[~inside], middle[~inside], color=paint, linewidth=1.3, linestyle=(0, (5, 3)))
            axes.fill_between(grid, low, high, color=paint, alpha=0.16, linewidth=0)
            columns |= {name: middle, f"{name}_low": low, f"{name}_high": high}
        if subject.isoflop is not None:
            for budget in subject.isoflop.budgets:
                if budget.is_inside:
                    found[0].plot(budget.flops, budget.corrected or budget.vertex, "o", color=paint, markersize=4)
                    sizes = subject.table.params[budget.rows]
                    ends = np.clip(budget.vertex_interval or [np.nan, np.nan], sizes.min(), sizes.max())
                    found[0].plot([budget.flops, budget.flops], ends, color=paint, linewidth=1)
        rows += [
            {"architecture": subject.name} | {key: values[i] for key, values in columns.items()}
            for i in range(len(grid))
        ]
    for axes, kind in zip(found, ("count", "count", "number"), strict=True):
        log_scale(axes, "x", "flops")
        log_scale(axes, "y", kind)
    if any(subject.isoflop is not None for subject in known):
        found[0].plot([], [], "o", color=MUTED, markersize=4, label="isoFLOP vertices, corrected, with interval")
    legend_below(found[0])
    caption = "How a budget is best split; dashed lines are beyond the largest run, where the bands are what is left."
    return finish("allocation", figure, rows, caption)
