"""Figures of what the table does not know: the cloud of exponents, all estimates, sensitivity, influence."""

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from sisa_scale.reporting.style import INK, MUTED, SERIES, new_figure, plain
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, log_scale, panels
from sisa_scale.scaling.fit.bootstrap import a_of
from sisa_scale.scaling.fit.influence import influence, sensitivity
from sisa_scale.scaling.report.contents import Study, estimates

_MAX_DOTS = 1000


def exponent_cloud(study: Study) -> Plot | None:
    """Exponents of the resampled laws, and the line of equal a through the estimate."""
    if study.fit is None or study.draws is None or study.draws.laws_BK5 is None:
        return None
    figure, axes = new_figure("Exponents over the resamples", "α (parameters)", "β (tokens)", height=4.0)
    axes.xaxis.set_major_formatter("{x:g}")
    laws = study.draws.laws_BK5[study.draws.is_good_B, 0][:_MAX_DOTS]
    law = study.fit.laws_K5[0]
    axes.scatter(laws[:, 3], laws[:, 4], s=7, color=color(0), alpha=0.3, linewidths=0, label="resampled laws")
    ends = np.array([laws[:, 3].min(), laws[:, 3].max()])
    axes.plot(ends, ends * law[4] / law[3], color=MUTED, linewidth=1, label=f"a = β/(α+β) = {a_of(law):.3f}")
    axes.plot(law[3], law[4], marker="+", markersize=13, markeredgewidth=2, color=SERIES[1], linestyle="", label="fit")
    legend_below(axes)
    rows = [{"kind": "fit", "alpha": law[3], "beta": law[4], "A": law[0], "B": law[1], "E": law[2]}]
    rows += [{"kind": "resample", "alpha": r[3], "beta": r[4], "A": r[0], "B": r[1], "E": r[2]} for r in laws]
    caption = f"{len(laws)} of the resampled laws. A long thin cloud means that α and β are known only together."
    return finish("exponents", figure, rows, caption)


def forest(study: Study) -> Plot | None:
    """a, α, β and E of every architecture by every method, with intervals."""
    found = estimates(study)
    if not found:
        return None
    quantities = list(dict.fromkeys(one.quantity for one in found))
    heights = [0.85 + 0.24 * sum(one.quantity == quantity for one in found) for quantity in quantities]
    names = {"a": "a of params ∝ FLOPs^a", "α": "α", "β": "β", "E": "E"}
    titles = [(names[q], "", "") for q in quantities]
    figure, grid = panels(titles, 1, row_inches=sum(heights) / len(heights), ratios=heights)
    for axes, quantity in zip(grid, quantities, strict=True):
        lines = [one for one in found if one.quantity == quantity]
        for height, one in enumerate(lines):
            paint = color(study.table.architectures.index(one.architecture))
            if one.interval is not None:
                axes.plot(one.interval, [height, height], color=paint, linewidth=2)
            axes.plot(one.value, height, "o", color=paint, markersize=5)
        prefix = len(study.subjects) > 1
        labels = [plain(f"{one.architecture}: {one.method}" if prefix else one.method) for one in lines]
        axes.set_yticks(range(len(lines)), labels, color=INK, fontsize=8.5)
        axes.set_ylim(len(lines) - 0.4, -0.6)
    rows = [
        {"quantity": one.quantity, "architecture": one.architecture, "method": one.method, "value": one.value}
        | ({} if one.interval is None else {"low": one.interval[0], "high": one.interval[1]})
        for one in found
    ]
    caption = f"Estimates with {study.level:.0%} intervals; an envelope has none. E is compared within this form only."
    return finish("forest", figure, rows, caption)


def sensitivity_figure(study: Study) -> Plot | None:
    """The exponent a under other thresholds, objectives, cuts, and counts of parameters."""
    if study.fit is None:
        return None
    variants = sensitivity(study.table, study.fit.form.name)
    if not variants:
        return None
    figure, (axes,) = panels(
        [("What the exponent hangs on", "a = β/(α+β)", "")], 1, row_inches=0.9 + 0.24 * len(variants)
    )
    choices = list(dict.fromkeys(one.choice for one in variants))
    for height, one in enumerate(variants):
        axes.plot(one.a, height, "o", color=color(choices.index(one.choice)), markersize=5)
    axes.axvline(float(a_of(study.fit.laws_K5[0])), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    labels = [plain(f"{one.choice}: {one.value}") for one in variants]
    axes.set_yticks(range(len(variants)), labels, color=INK, fontsize=8.5)
    axes.set_ylim(len(variants) - 0.4, -0.6)
    rows = [
        {"choice": one.choice, "value": one.value, "a": one.a, "alpha": one.alpha, "beta": one.beta, "E": one.E}
        for one in variants
    ]
    caption = "The same table under other choices of the analyst; the dashed line is the fit of this report."
    return finish("sensitivity", figure, rows, caption)


def design_map(study: Study) -> Plot | None:
    """Where the runs lie, coloured by how much the exponent moves without their trunk."""
    if study.fit is None:
        return None
    change, worst = influence(study.fit)
    table = study.table
    figure, axes = new_figure("Influence of single trunks on a", "parameters", "tokens", height=4.0)
    limit = max(float(np.nanmax(np.abs(change))), 1e-12)
    order = np.argsort(np.abs(change))  # the greatest on top
    dots = axes.scatter(
        table.params[order], table.tokens[order], c=change[order], s=26, cmap="PuOr",
        norm=TwoSlopeNorm(0, -limit, limit), edgecolors=MUTED, linewidths=0.4,
    )  # fmt: skip
    label = f"without it a moves by {change[worst]:+.4f}"
    axes.plot(table.params[worst], table.tokens[worst], "o", markersize=12, markerfacecolor="none", color=INK,
              linestyle="", label=label)  # fmt: skip
    bar = figure.colorbar(dots, ax=axes, shrink=0.8)
    bar.set_label("change of a without the trunk", fontsize=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    bar.outline.set_visible(False)
    log_scale(axes, "x", "count")
    log_scale(axes, "y", "count")
    legend_below(axes)
    rows = [
        {"architecture": str(table.architecture_N[i]), "line": int(table.lines[i]), "params": table.params[i],
         "tokens": table.tokens[i], "change_of_a": change[i]}
        for i in range(len(table))
    ]  # fmt: skip
    return finish("design_map", figure, rows, "Runs that the exponent hangs on are worth repeating with another seed.")
