"""Figures of the losses: over compute with the frontier, isoFLOP parabolas, and the surface."""

import numpy as np

from sisa_scale.reporting.style import GRID, INK, MUTED, new_figure, plain
from sisa_scale.scaling.allocation.frontier import allocate, predict
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, legend_beside, log_scale, panels, tick
from sisa_scale.scaling.report.contents import Study, compute_grid

_MAX_CONTOUR_LEVELS = 9


def loss_over_compute(study: Study) -> Plot:
    """All points, the lower envelope, and the frontier of the law with its band."""
    figure, axes = new_figure("Loss over compute", "training FLOPs", f"loss ({study.table.loss_unit})", height=4.2)
    rows = []
    for subject in study.subjects:
        table, paint = subject.table, color(subject.index)
        named = plain(subject.name) if len(study.subjects) > 1 else "runs"
        axes.scatter(table.flops, table.losses, s=13, color=paint, alpha=0.55, linewidths=0, label=named)
        edge = subject.envelope.rows
        axes.plot(table.flops[edge], table.losses[edge], color=paint, linewidth=0.9, linestyle=(0, (2, 2)))
        is_edge = np.isin(np.arange(len(table)), edge)
        rows += [
            {"kind": "run", "architecture": subject.name, "flops": f, "loss": y, "on_envelope": int(e)}
            for f, y, e in zip(table.flops, table.losses, is_edge, strict=True)
        ]
        if subject.law_5 is None or subject.laws_B5 is None:
            continue
        grid = compute_grid(table)
        middle = allocate(subject.law_5, grid, subject.cost).loss
        drawn = allocate(subject.laws_B5[:, None, :], grid, subject.cost).loss
        bands = [study.interval(drawn[:, i]) or [np.nan, np.nan] for i in range(len(grid))]
        low, high = np.array(bands).T
        inside = grid <= table.flops.max()
        axes.plot(grid[inside], middle[inside], color=paint, linewidth=1.8)
        axes.plot(grid[~inside], middle[~inside], color=paint, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.fill_between(grid, low, high, color=paint, alpha=0.16, linewidth=0)
        rows += [
            {"kind": "frontier", "architecture": subject.name, "flops": f, "loss": y, "low": a, "high": b}
            for f, y, a, b in zip(grid, middle, low, high, strict=True)
        ]
    if study.fit is not None:
        axes.plot([], [], color=INK, linewidth=1.8, label="frontier of the law (dashed: beyond the runs)")
    axes.plot([], [], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="lower envelope of the runs")
    log_scale(axes, "x", "flops")
    legend_below(axes)
    caption = (
        "Every run, the lower envelope, and the least loss that the law gives for a budget, with its band. "
        "A frontier below all points is where no run had the best size."
    )
    return finish("loss_over_compute", figure, rows, caption)


def isoflop_curves(study: Study) -> Plot | None:
    """Points of every budget with their parabola, the vertex and the corrected vertex."""
    subjects = [subject for subject in study.subjects if subject.isoflop is not None]
    if not subjects:
        return None
    loss = f"loss ({study.table.loss_unit})"
    titles = [("IsoFLOP curves" + (f": {s.name}" if len(study.subjects) > 1 else ""), "parameters", loss)
              for s in subjects]  # fmt: skip
    figure, found = panels(titles, 1, row_inches=3.7)
    rows = []
    for axes, subject in zip(found, subjects, strict=True):
        assert subject.isoflop is not None
        for number, budget in enumerate(subject.isoflop.budgets):
            paint = color(number)
            x, heights = subject.table.params[budget.rows], subject.table.losses[budget.rows]
            axes.scatter(x, heights, s=16, color=paint, linewidths=0, label=tick(budget.flops, "flops"))
            line = np.linspace(np.log(x.min()) - 0.1, np.log(x.max()) + 0.1, 60)
            c0, c1, c2 = budget.coefficients
            z = line - budget.centre
            axes.plot(np.exp(line), c0 + c1 * z + c2 * z**2, color=paint, linewidth=1.2)
            axes.plot(budget.vertex, budget.loss, marker="o", markersize=7, markerfacecolor="none", color=INK)
            low, high = np.clip(budget.vertex_interval or [np.nan, np.nan], *np.exp(line[[0, -1]]))
            axes.plot([low, high], [budget.loss, budget.loss], color=INK, linewidth=1.6, alpha=0.7)
            if budget.corrected is not None:
                axes.plot(budget.corrected, budget.loss, marker="x", markersize=7, color=INK, markeredgewidth=1.6)
            rows += [
                {"kind": "run", "architecture": subject.name, "flops": budget.flops, "params": n, "loss": y}
                for n, y in zip(x, heights, strict=True)
            ]
            rows.append(
                {"kind": "vertex", "architecture": subject.name, "flops": budget.flops, "params": budget.vertex,
                 "loss": budget.loss, "corrected_params": budget.corrected, "low": low, "high": high,
                 "is_inside": int(budget.is_inside)}
            )  # fmt: skip
        axes.plot([], [], marker="o", markerfacecolor="none", linestyle="", color=INK, label="vertex")
        if any(budget.corrected is not None for budget in subject.isoflop.budgets):
            axes.plot([], [], marker="x", linestyle="", color=INK, label="corrected vertex")
        axes.plot([], [], color=INK, linewidth=1.6, alpha=0.7, label=f"{study.level:.0%} of the vertex")
        log_scale(axes, "x", "count")
        legend_beside(axes, "FLOPs")
    caption = (
        "A parabola of loss over log parameters for each budget. The correction removes the error that the same grid "
        "makes on the fitted surface. Bars are intervals of the best size; an open one ends with its parabola."
    )
    return finish("isoflop", figure, rows, caption)


def surface(study: Study) -> Plot | None:
    """Contours of the law over parameters and tokens, isoFLOP lines, the frontier, and where the runs lie."""
    known = [subject for subject in study.subjects if subject.law_5 is not None]
    if not known:
        return None
    subject = known[0]
    assert subject.law_5 is not None
    title = "Loss surface" + (f" of {subject.name}" if len(study.subjects) > 1 else "")
    figure, axes = new_figure(title, "parameters", "tokens", height=4.4)
    table = subject.table
    params = np.geomspace(table.params.min() / 2, table.params.max() * 2, 90)
    tokens = np.geomspace(table.tokens.min() / 2, table.tokens.max() * 2, 90)
    losses = predict(subject.law_5, params[None, :], tokens[:, None])
    levels = np.unique(np.round(np.quantile(losses, np.linspace(0.04, 0.9, _MAX_CONTOUR_LEVELS)), 2))
    lines = axes.contour(params, tokens, losses, levels=levels, colors=MUTED, linewidths=0.9)
    axes.clabel(lines, fontsize=7.5, fmt="%g", colors=INK)
    axes.scatter(table.params, table.tokens, s=14, color=color(0), linewidths=0, alpha=0.8, zorder=3, label="runs")
    budgets = 10.0 ** np.arange(np.ceil(np.log10(table.flops.min())), np.ceil(np.log10(table.flops.max())) + 1)
    for budget in budgets:
        line = budget / (subject.cost.factor * params**subject.cost.power)
        axes.plot(params, line, color=GRID, linewidth=1.3, zorder=1)
    best = allocate(subject.law_5, compute_grid(table, 3.0), subject.cost)
    axes.plot(best.params, best.tokens, color=color(1), linewidth=1.8, label="compute-optimal")
    axes.plot([], [], color=GRID, linewidth=1.3, label="equal FLOPs, decades")
    axes.set_xlim(params[0], params[-1])
    axes.set_ylim(tokens[0], tokens[-1])
    log_scale(axes, "x", "count")
    log_scale(axes, "y", "count")
    legend_below(axes)
    rows = [{"kind": "run", "params": n, "tokens": d, "loss": y}
            for n, d, y in zip(table.params, table.tokens, table.losses, strict=True)]  # fmt: skip
    rows += [{"kind": "optimal", "params": n, "tokens": d, "loss": y} for n, d, y in zip(*best, strict=True)]
    return finish("surface", figure, rows, "The fitted law; it is known where runs surround it and nowhere else.")
