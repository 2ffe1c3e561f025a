"""A forecast of the largest trials from the smaller ones, registered before they begin and never written again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sisa_scale.errors import DataError
from sisa_scale.runs.layout import holds_run
from sisa_scale.scaling.analysis import analyse
from sisa_scale.scaling.fit.arrays import floats
from sisa_scale.scaling.fit.bootstrap import LEVEL
from sisa_scale.scaling.forecast import (
    Prediction,
    Score,
    load_forecast,
    predict_by_plane,
    predict_runs,
    register,
    score,
)
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import RunTable
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.results.collection import collect
from sisa_scale.studies.trial import Trial

FORECAST = "forecast.json"
PLANE = "log loss linear in log parameters and log tokens"


def largest_of(trials: Sequence[Trial]) -> set[str]:
    """Return the trunks of the largest trials: of every architecture that with the most FLOPs, of every seed."""
    return _largest([trial.to_plain() for trial in trials])


def register_forecast(directory: StudyDirectory) -> str:
    """Write forecast.json from the finished smaller trials, unless it is there; return what there is to say of it.

    The law of `laws fit` predicts where the smaller trials determine it, else a plane. A largest trial that has begun,
    or too few smaller ones, make no forecast.
    """
    path = directory.path / FORECAST
    if path.exists():
        return f"{path} is there already and stays as it is"
    rows = [trial.values for trial in directory.trials()]
    largest = _largest(rows)
    if any(holds_run(directory.path / "runs" / row["name"]) for row in rows if row["trunk"] in largest):
        return "no forecast: one of the largest trials has begun"
    try:
        table = load_table(collect(directory).path)
    except (DataError, RefusalError) as error:
        return f"no forecast: {error}"
    targets = {row["architecture"]: row for row in rows if row["name"] in _biggest(rows)}
    try:
        form, objective, predictions = _predict(table, list(targets.values()))
    except RefusalError as error:
        return f"no forecast: {error}"
    register(path, table, form, objective, predictions)
    said = ", ".join(
        f"{one.architecture} {one.loss:.4f} ({one.interval[0]:.4f} to {one.interval[1]:.4f})" for one in predictions
    )
    return f"forecast of the largest trials, registered in {path}: {said}"


def score_forecast(study_dir: Path, table: RunTable) -> tuple[dict[str, Any], list[Score]] | None:
    """Return the forecast and how it compares with the largest trials that have finished; None where there is none.

    Raises RefusalError for a file that was altered.
    """
    path = study_dir / FORECAST
    if not path.exists():
        return None
    forecast = load_forecast(path)
    try:
        return forecast, score(forecast, table, table.path)
    except RefusalError as error:
        if error.code != "bad-request":
            raise
        return forecast, []


def _predict(table: RunTable, targets: Sequence[dict[str, Any]]) -> tuple[str, str, list[Prediction]]:
    form = "chinchilla" if len(table.architectures) == 1 else "shared"
    sizes = [(row["architecture"], float(row["params_scaling"]), float(row["tokens"])) for row in targets]
    try:
        found = analyse(table, form, needs_law=True)
        draws = found.draws_or_refuse
        predictions = [
            one
            for name, params, tokens in sizes
            for one in predict_runs(found.fit, draws, name, floats([params]), floats([tokens]))
        ]
    except RefusalError:
        planes = [predict_by_plane(table, name, params, tokens, level=LEVEL) for name, params, tokens in sizes]
        return PLANE, "least squares", planes
    return form, found.fit.objective.name, predictions


def _largest(rows: Sequence[dict[str, Any]]) -> set[str]:
    biggest = _biggest(rows)
    return {row["trunk"] for row in rows if row["name"] in biggest}


def _biggest(rows: Sequence[dict[str, Any]]) -> set[str]:
    most: dict[str, float] = {}
    for row in rows:
        if row["role"] != "tuning":
            most[row["architecture"]] = max(most.get(row["architecture"], 0.0), row["train_flops"])
    return {r["name"] for r in rows if r["role"] != "tuning" and r["train_flops"] == most[r["architecture"]]}
