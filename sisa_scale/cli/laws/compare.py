"""`sisa-scale laws compare TABLE --reference NAME`."""

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
    numbers,
    reading,
    refusals_as_json,
    sampling,
    show,
    warn,
)


@click.command("compare")
@TABLE
@click.option("--reference", help="The architecture to compare with; the first of the table unless given.")
@click.option("--at-loss", help="Losses in nats, separated by commas; three inside the common range unless given.")
@click.option("--cost", help="flops, tokens, seconds, separated by commas; all that the table has unless given.")
@click.option("--form", type=click.Choice(["shared", "shared-e", "separate"]), default="shared", show_default=True)
@OBJECTIVE
@AS_JSON
@reading
@sampling
@refusals_as_json
def command(
    table: Path,
    reference: str | None,
    at_loss: str | None,
    cost: str | None,
    form: str,
    objective: str,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Compare the architectures in TABLE at stated losses, in FLOPs, tokens and seconds."""
    from sisa_scale.scaling.comparison.compare import compare, unclaimed, verdicts_of
    from sisa_scale.scaling.comparison.pairs import compare_pairs
    from sisa_scale.scaling.fit.arrays import floats
    from sisa_scale.scaling.fit.objectives import parse_objective
    from sisa_scale.scaling.report.results import fit_values

    runs = load(table, reading)
    found = compare(
        runs,
        reference or runs.architectures[0],
        form=form,
        objective=parse_objective(objective),
        losses=floats(numbers(at_loss, "--at-loss")) if at_loss else None,
        units=parse_costs(cost) if cost else None,
        num_resamples=resamples,
        seed=seed,
        level=level,
    )
    notices = [*runs.notices, *found.notices]
    pairs = compare_pairs(runs, found.reference, level)
    paired = [one.sentence(pairs.reference, level) for one in pairs.overall] if pairs else []
    sentences = [*verdicts_of(found), *unclaimed(found), *paired]
    if as_json:
        value = fit_values(found.fit, found.identifiability, found.draws, notices, level)
        efficiencies = {row.architecture: row for row in found.efficiencies}
        comparison = {
            "reference": found.reference,
            "efficiency": efficiencies,
            "multipliers": found.multipliers,
            "nested": found.nested,
            "pairs": pairs,
            "verdicts": sentences,
        }
        emit_json({**value, "comparison": comparison})
        return
    warn(notices)
    if found.efficiencies:
        rows = [
            {
                "architecture": row.architecture,
                "ρ_N (parameters)": f"{row.rho_N:.3f}",
                "interval": interval_text(row.rho_N_interval, 3),
                "ρ_D (tokens)": f"{row.rho_D:.3f}",
                "its interval": interval_text(row.rho_D_interval, 3),
            }
            for row in found.efficiencies
        ]
        show(rows, f"efficiency against {found.reference}, shared exponents")
    models = [
        {
            "model": row.form,
            "parameters": row.num_parameters,
            "mean |residual|": row.mean_absolute_residual,
            "AICc": row.aicc,
            "p against the one above": row.p_value,
            "error on the largest fifth": row.error_of_largest,
        }
        for row in found.nested
    ]
    show(models, "what differs between the architectures")
    for sentence in sentences:
        click.echo(sentence)


def parse_costs(text: str) -> list[str]:
    """Read `flops,tokens,seconds`."""
    from sisa_scale.scaling.allocation.efficiency import COSTS
    from sisa_scale.scaling.table.notices import refusal

    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or set(names) - set(COSTS):
        raise refusal(
            "bad-request", "--cost", found=repr(text), allowed=", ".join(COSTS), remedy="Separate them by commas."
        )
    return names
