"""`sisa-scale laws report TABLE`."""

from pathlib import Path

import click

from sisa_scale.cli.laws.options import (
    AS_JSON,
    OBJECTIVE,
    TABLE,
    Reading,
    emit_json,
    load,
    numbers,
    reading,
    refusals_as_json,
    sampling,
    warn,
)


@click.command("report")
@TABLE
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), default="report", show_default=True)
@click.option("--reference", help="The architecture to compare with; the first of the table unless given.")
@click.option("--at-loss", help="Losses of the comparison; three inside the common range unless given.")
@OBJECTIVE
@AS_JSON
@reading
@sampling
@refusals_as_json
def command(
    table: Path,
    out: Path,
    reference: str | None,
    at_loss: str | None,
    objective: str,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Write report.html, SVG, PDF and CSV of each figure, runs.csv, and fit.json with covariance and draws."""
    from sisa_scale.scaling.fit.arrays import floats
    from sisa_scale.scaling.report.page import write_report

    runs = load(table, reading)
    losses = floats(numbers(at_loss, "--at-loss")) if at_loss else None
    value, notices = write_report(
        out, runs, objective, reference=reference, losses=losses, num_resamples=resamples, seed=seed, level=level
    )
    if as_json:
        emit_json(value)
        return
    warn(notices)
    click.echo(f"wrote {out / 'report.html'}")
