"""`sisa-scale laws forecast register|score`."""

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


@click.group("forecast")
def command() -> None:
    """Write forecasts down before the runs exist, and score them afterwards."""


@command.command("register")
@TABLE
@click.option("--params", required=True, help="params_scaling of the runs to come, separated by commas.")
@click.option("--tokens", required=True, help="Tokens of the same runs.")
@click.option("--form", default=None, help="chinchilla for one architecture, shared for several, unless given.")
@OBJECTIVE
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A new file.")
@AS_JSON
@reading
@sampling
@refusals_as_json
def register(
    table: Path,
    params: str,
    tokens: str,
    form: str | None,
    objective: str,
    out: Path,
    as_json: bool,
    reading: Reading,
    resamples: int,
    seed: int,
    level: float,
) -> None:
    """Predict the loss of runs to come from TABLE, with the interval of one run, and write it down."""
    from sisa_scale.scaling.analysis import analyse
    from sisa_scale.scaling.fit.arrays import floats
    from sisa_scale.scaling.forecast import predict_runs
    from sisa_scale.scaling.forecast import register as write
    from sisa_scale.scaling.report.results import fit_values
    from sisa_scale.scaling.table.notices import refusal

    runs = load(table, reading)
    sizes, durations = floats(numbers(params, "--params")), floats(numbers(tokens, "--tokens"))
    if len(sizes) != len(durations):
        raise refusal(
            "bad-request",
            "--tokens",
            found=f"{len(durations)} numbers for {len(sizes)} of --params",
            allowed="one each",
            remedy="Give the tokens of every run.",
        )
    form = form or ("chinchilla" if len(runs.architectures) == 1 else "shared")
    found = analyse(runs, form, objective, num_resamples=resamples, seed=seed, needs_law=True)
    predictions = [
        one
        for name in runs.architectures
        for one in predict_runs(found.fit, found.draws_or_refuse, name, sizes, durations, level=level, seed=seed)
    ]
    forecast = write(out, runs, found.fit.form.name, found.fit.objective.name, predictions, level)
    if as_json:
        value = fit_values(found.fit, found.identifiability, found.draws, found.notices, level)
        emit_json({**value, "forecast": forecast})
        return
    warn(found.notices)
    rows = [
        {
            "architecture": one.architecture,
            "parameters": f"{one.params_scaling:.4g}",
            "tokens": f"{one.tokens:.4g}",
            "loss": f"{one.loss:.4f}",
            f"{level:.0%} interval of one run": interval_text(one.interval, 5),
        }
        for one in predictions
    ]
    show(rows, f"registered in {out}, SHA-256 {forecast['sha256'][:16]}...")


@command.command("score")
@click.argument("forecast", type=click.Path(path_type=Path, dir_okay=False))
@TABLE
@AS_JSON
@reading
@refusals_as_json
def score(forecast: Path, table: Path, as_json: bool, reading: Reading) -> None:
    """Compare FORECAST with the finished runs in TABLE."""
    from sisa_scale.scaling.forecast import load_forecast
    from sisa_scale.scaling.forecast import score as score_runs
    from sisa_scale.scaling.report.results import warnings

    registered, runs = load_forecast(forecast), load(table, reading)
    scores = score_runs(registered, runs, table)
    if as_json:
        diagnostics = {
            "registered": registered["registered"],
            "table_sha256": registered["table_sha256"],
            "num_inside": sum(one.is_inside for one in scores),
            "num_scored": len(scores),
            "warnings": warnings(runs.notices),
        }
        nothing: dict[str, object] = {"parameters": None, "objective": None, "intervals": {}}
        emit_json({**nothing, "diagnostics": diagnostics, "scores": scores})
        return
    warn(runs.notices)
    rows = [
        {
            "architecture": one.prediction.architecture,
            "parameters": f"{one.prediction.params_scaling:.4g}",
            "tokens": f"{one.prediction.tokens:.4g}",
            "predicted": f"{one.prediction.loss:.4f}",
            "measured": f"{one.measured:.4f}",
            "error": f"{one.relative_error:+.2%}",
            "inside the interval": "yes" if one.is_inside else "no",
        }
        for one in scores
    ]
    show(rows, f"forecast of {registered['registered']}")
