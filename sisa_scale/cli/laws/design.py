"""`sisa-scale laws design`."""

from pathlib import Path

import click

from sisa_scale.cli.laws.options import AS_JSON, emit_json, refusals_as_json, show, warn


@click.command("design")
@click.option("--from", "least", type=float, default=1e18, show_default=True, help="FLOPs of the least budget.")
@click.option("--to", "greatest", type=float, default=1e20, show_default=True, help="FLOPs of the greatest budget.")
@click.option("--budget", type=float, help="FLOPs to spend in all: choose runs one by one.")
@click.option("--target", type=float, default=1e22, show_default=True, help="FLOPs at which the law will be used.")
@click.option("--noise", type=float, default=0.003, show_default=True, help="Spread of log loss between equal runs.")
@click.option("--error-of-a", type=float, help="Name the cheapest design with at most this standard error of a.")
@click.option("--table", type=click.Path(path_type=Path, dir_okay=False), help="Runs whose law and noise to assume.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the runs of the best as CSV.")
@AS_JSON
@refusals_as_json
def command(
    least: float,
    greatest: float,
    budget: float | None,
    target: float,
    noise: float,
    error_of_a: float | None,
    table: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict what a law fitted to each of several grids of runs would know, and what they cost."""
    from sisa_scale.files import write_text
    from sisa_scale.scaling.design.plan import design_csv, plan_designs
    from sisa_scale.scaling.report.results import warnings

    plan = plan_designs(
        least=least, greatest=greatest, budget=budget, target=target, noise=noise, error_of_a=error_of_a, table=table
    )
    if out is not None:
        write_text(out, design_csv(plan.best))
    if as_json:
        emit_json(
            {
                "parameters": plan.parameters,
                "objective": None,
                "intervals": {},
                "diagnostics": {"assumed": plan.assumed, "noise": plan.noise, "warnings": warnings(plan.notices)},
                "designs": plan.qualities,
                "best": {"name": plan.best.name, "params_scaling": plan.best.params, "tokens": plan.best.tokens},
            }
        )
        return
    warn(plan.notices)
    rows = [
        {
            "design": row.name,
            "runs": row.num_runs,
            "FLOPs": f"{row.flops:.2g}",
            "condition": f"{row.condition:.3g}",
            "error of a": f"{row.error_of_a:.2g}",
            "error of loss at target": f"{100 * row.error_of_loss:.2g} %",
            "tokens per parameter off by": f"{row.factor_of_ratio:.3g}x",
        }
        for row in plan.qualities
    ]
    show(rows, f"one standard error, noise {plan.noise:.3g}, law: {plan.assumed}")
    click.echo(f"best: {plan.best.name}")
