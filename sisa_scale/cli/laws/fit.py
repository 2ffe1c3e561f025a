"""`sisa-scale laws fit TABLE`."""

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
    reading,
    refusals_as_json,
    sampling,
    show,
    warn,
)


@click.command("fit")
@TABLE
@FORM
@OBJECTIVE
@click.option("--interval", type=click.Choice(["percentile", "bca"]), default="percentile", show_default=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the JSON here, and covariance and draws beside it.",
)
@AS_JSON
@reading
@sampling
@refusals_as_json
def command(
    table: Path,
    form: str,
    objective: str,
    interval: str,
    out: Path | None,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Fit a law to TABLE by many starts, with cluster bootstrap intervals."""
    from sisa_scale.files import write_json
    from sisa_scale.scaling.analysis import analyse, jackknife_for
    from sisa_scale.scaling.report.exports import write_beside
    from sisa_scale.scaling.report.results import fit_values, plain

    runs = load(table, reading)
    found = analyse(runs, form, objective, num_resamples=resamples, seed=seed)
    others = jackknife_for(found) if interval == "bca" else None
    value = fit_values(found.fit, found.identifiability, found.draws, found.notices, level, others)
    if out is not None:
        write_json(out, plain(value))
        write_beside(out, found.fit, found.draws)
    if as_json:
        emit_json(value)
        return
    warn(found.notices)
    points = dict(value["parameters"])
    if "a" in value:
        points["a"] = value["a"]
    head, intervals = f"{level:.0%} interval", value["intervals"]
    rows = [
        {"parameter": name, "value": f"{point:.6g}", head: interval_text(intervals.get(name))}
        for name, point in points.items()
    ]
    show(rows, f"{form}, {objective}, {len(runs)} points: objective {value['objective']:.8g}")
