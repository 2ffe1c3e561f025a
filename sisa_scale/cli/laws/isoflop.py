"""`sisa-scale laws isoflop TABLE`."""

from pathlib import Path

import click

from sisa_scale.cli.laws.options import (
    AS_JSON,
    OBJECTIVE,
    TABLE,
    Reading,
    emit_json,
    interval_text,
    load,
    reading,
    refusals_as_json,
    sampling,
    show,
    warn,
)


@click.command("isoflop")
@TABLE
@OBJECTIVE
@click.option("--x", type=click.Choice(["params", "tokens"]), default="params", show_default=True)
@click.option("--correct-bias/--no-correct-bias", default=True, show_default=True, help="By the fitted surface.")
@AS_JSON
@reading
@sampling
@refusals_as_json
def command(
    table: Path,
    objective: str,
    x: str,
    correct_bias: bool,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Fit a parabola of loss over size at every budget in TABLE, and a power law through the vertices."""
    from sisa_scale.scaling.analysis import analyse_isoflop
    from sisa_scale.scaling.report.results import fit_values, warnings

    runs = load(table, reading)
    found, surface, notices = analyse_isoflop(
        runs, x, objective, correct_bias=correct_bias, num_resamples=resamples, seed=seed, level=level
    )
    if as_json:
        value = {"parameters": None, "objective": None, "intervals": {}, "diagnostics": {"table": runs.path}}
        if surface is not None:
            value = fit_values(surface.fit, surface.identifiability, surface.draws, notices, level)
        value["diagnostics"]["warnings"] = warnings(notices)  # type: ignore[index]
        value["isoflop"] = {
            "x": x,
            "exponent": found.exponent,
            "factor": found.factor,
            "interval": found.interval,
            "corrected_exponent": found.corrected_exponent,
            "corrected_factor": found.corrected_factor,
            "corrected_interval": found.corrected_interval,
            "budgets": [
                {
                    "flops": budget.flops,
                    "num_points": len(budget.rows),
                    "vertex": budget.vertex,
                    "interval": budget.vertex_interval,
                    "corrected_vertex": budget.corrected,
                    "loss": budget.loss,
                    "is_inside": budget.is_inside,
                }
                for budget in found.budgets
            ],
        }
        emit_json(value)
        return
    warn(notices)
    rows = [
        {
            "FLOPs": f"{budget.flops:.3g}",
            "points": len(budget.rows),
            f"best {x}": f"{budget.vertex:.4g}",
            "corrected": "–" if budget.corrected is None else f"{budget.corrected:.4g}",
            "interval": interval_text(budget.vertex_interval),
            "loss": f"{budget.loss:.4f}",
            "inside": "yes" if budget.is_inside else "no",
        }
        for budget in found.budgets
    ]
    title = "best sizes of two budgets: no exponent" if x == "params" else "best tokens of two budgets: no exponent"
    if found.exponent is not None:
        title = f"{x} ∝ FLOPs^{found.exponent:.4f} ({interval_text(found.interval)})"
    if found.corrected_exponent is not None:
        title += f"; corrected {found.corrected_exponent:.4f} ({interval_text(found.corrected_interval)})"
    show(rows, title)
