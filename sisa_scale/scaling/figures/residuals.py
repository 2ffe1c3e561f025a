"""Figures of how well the law describes the runs: residuals, and errors on runs that were left out."""

import numpy as np

from sisa_scale.reporting.style import INK, MUTED, new_figure, plain
from sisa_scale.scaling.comparison.nested_models import largest, predict_rows
from sisa_scale.scaling.figures.plot import Plot, color, finish, legend_below, log_scale, panels
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.forms import groups
from sisa_scale.scaling.report.contents import Study
from sisa_scale.scaling.table.notices import RefusalError

_HELD_OUT = (0.1, 0.2, 0.3, 0.4)


def residuals(study: Study) -> Plot | None:
    """Predicted against measured loss, and residuals over parameters, tokens, their ratio and compute."""
    if study.fit is None:
        return None
    table, residual_N = study.table, study.fit.residual_N
    excess = -100 * np.expm1(residual_N)
    predicted = table.losses * np.exp(residual_N)
    y = "measured − law (%)"
    titles = [
        ("Measured against law", f"loss of the law ({table.loss_unit})", f"measured loss ({table.loss_unit})"),
        ("Over parameters", "parameters", y),
        ("Over tokens", "tokens", y),
        ("Over tokens per parameter", "tokens per parameter", y),
        ("Over compute", "training FLOPs", y),
    ]
    figure, found = panels(titles, 2, row_inches=2.6)
    owner = groups(table)
    values = (predicted, table.params, table.tokens, table.tokens / table.params, table.flops)
    kinds = ("number", "count", "count", "number", "flops")
    for number, (axes, x, kind) in enumerate(zip(found, values, kinds, strict=True)):
        for k, name in enumerate(table.architectures):
            rows = owner == k
            heights = table.losses[rows] if number == 0 else excess[rows]
            axes.scatter(x[rows], heights, s=9, color=color(k), alpha=0.6, linewidths=0, label=plain(name))
        if number == 0:
            ends = [float(predicted.min()), float(predicted.max())]
            axes.plot(ends, ends, color=MUTED, linewidth=1)
            continue
        axes.axhline(0, color=MUTED, linewidth=1)
        log_scale(axes, "x", kind, is_narrow=True)
    if len(table.architectures) > 1:
        legend_below(found[0])
    names = ("params", "tokens", "tokens_per_parameter", "flops")
    rows_out = [
        {"architecture": str(table.architecture_N[i]), "line": int(table.lines[i]), "loss": table.losses[i],
         "predicted": predicted[i], "residual_percent": excess[i]}
        | {name: column[i] for name, column in zip(names, values[1:], strict=True)}
        for i in range(len(table))
    ]  # fmt: skip
    caption = "A trend in any panel means that the form misses something: a law with small errors can still be wrong."
    return finish("residuals", figure, rows_out, caption)


def leave_largest_out(study: Study) -> Plot | None:
    """Errors on the largest runs of laws that were fitted without them."""
    if study.fit is None:
        return None
    table, form = study.table, study.fit.form.name
    figure, axes = new_figure(
        "Extrapolation tested: runs beyond the fitted ones", "FLOPs over the largest fitted run", "measured − law (%)"
    )
    rows = []
    for number, share in enumerate(_HELD_OUT):
        held = largest(table, share)
        found = _without(study.fit, held)
        if found is None:
            continue
        predicted = np.exp(predict_rows(table, form, found.theta_P, ~held))[held]
        excess = 100 * (table.losses[held] / predicted - 1)
        top = {name: table.flops[~held & (table.architecture_N == name)].max() for name in table.architectures}
        factor = table.flops[held] / np.array([top[str(name)] for name in table.architecture_N[held]])
        label = f"largest {share:.0%} left out: mean |error| {np.abs(excess).mean():.2f} %"
        axes.scatter(factor, excess, s=14, color=color(number), linewidths=0, alpha=0.75, label=label)
        rows += [{"left_out": share, "flops_factor": f, "error_percent": e}
                 for f, e in zip(factor, excess, strict=True)]  # fmt: skip
    if not rows:
        return None
    axes.axhline(0, color=INK, linewidth=0.9)
    log_scale(axes, "x", "number")
    legend_below(axes)
    caption = "The only honest measure of a forecast that the table itself can give. Register a forecast for the rest."
    return finish("leave_largest_out", figure, rows, caption)


def _without(full: Fit, held: np.ndarray) -> Fit | None:
    try:
        part = full.table.select(~held)
        return fit(part, full.form.name, full.objective) if part.architectures == full.table.architectures else None
    except RefusalError:
        return None
