"""`sisa-scale laws optimal TABLE --budget FLOPS`."""

from pathlib import Path

import click

from sisa_scale.cli.laws.options import (
    AS_JSON,
    FORM,
    OBJECTIVE,
    TABLE,
    Reading,
    emit_json,
    interval_text,
    load,
    numbers,
    reading,
    refusals_as_json,
    sampling,
    show,
    warn,
)


@click.command("optimal")
@TABLE
@click.option("--budget", required=True, help="Training FLOPs; several are separated by commas.")
@click.option("--shapes", multiple=True, help="Recipes, or a CSV with params_scaling and train_flops_per_token.")
@click.option(
    "--count",
    type=click.Choice(["total", "nonembedding"]),
    default="total",
    show_default=True,
    help="What params_scaling counts, for recipes given as shapes.",
)
@click.option("--tokens-max", type=float, default=float("inf"), help="Tokens there are, for shapes.")
@FORM
@OBJECTIVE
@AS_JSON
@reading
@sampling
@refusals_as_json
def command(
    table: Path,
    budget: str,
    shapes: tuple[str, ...],
    count: str,
    tokens_max: float,
    form: str,
    objective: str,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Split a budget of FLOPs into parameters and tokens under the law of TABLE.

    FLOPs per token come from the table's train_flops as a power of params_scaling, or exactly from --shapes.
    """
    from sisa_scale.cli.laws.shapes import shapes_of
    from sisa_scale.scaling.analysis import analyse_optimal
    from sisa_scale.scaling.report.results import fit_values

    runs, budgets = load(table, reading), numbers(budget, "--budget")
    found, allocations, choices, notices = analyse_optimal(
        runs,
        form,
        objective,
        budgets,
        shapes_of(shapes, count),
        tokens_max=tokens_max,
        num_resamples=resamples,
        seed=seed,
        level=level,
    )
    if as_json:
        value = fit_values(found.fit, found.identifiability, found.draws, notices, level)
        emit_json({**value, "optimal": allocations, "shapes": choices})
        return
    warn(notices)
    rows = [
        {
            "FLOPs": f"{one.budget_flops:.3g}",
            "parameters": f"{one.params_scaling:.4g}",
            "interval": interval_text(one.params_interval, 3),
            "tokens": f"{one.tokens:.4g}",
            "tokens per parameter": f"{one.tokens_per_parameter:.3g}",
            "its interval": interval_text(one.tokens_per_parameter_interval, 3),
            "loss": f"{one.loss:.4f}",
            "loss interval": interval_text(one.loss_interval),
        }
        for one in allocations
    ]
    show(rows, f"best split, {level:.0%} intervals")
    for flops, ranked in choices.items():
        rows = [
            {
                "shape": one.name,
                "parameters": f"{one.params_scaling:.4g}",
                "tokens": f"{one.tokens:.4g}",
                "loss": f"{one.loss:.4f}",
                "interval": interval_text(one.loss_interval),
                "best in": f"{one.share_best:.0%}",
            }
            for one in ranked
        ]
        show(rows, f"shapes at {flops} FLOPs")
