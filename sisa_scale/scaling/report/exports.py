"""What lies beside a fit as files: its draws, its covariance, and the runs that it was fitted to."""

from pathlib import Path
from typing import Any

import numpy as np

from sisa_scale.files import write_json, write_text
from sisa_scale.scaling.csv_text import csv_text
from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.bootstrap import Draws
from sisa_scale.scaling.fit.fitting import Fit, residual_error
from sisa_scale.scaling.fit.forms import BoundForm
from sisa_scale.scaling.report.results import plain
from sisa_scale.scaling.table.identifiability import error_of_points
from sisa_scale.scaling.table.table import RunTable

_COEFFICIENTS = ("A", "B", "E", "G", "K")  # in the covariance by their logarithms
_STEP = 1e-6


def write_beside(path: Path, result: Fit, draws: Draws | None) -> list[Path]:
    """Write STEM.draws.csv and STEM.covariance.json beside the JSON of a fit; return their paths."""
    covariance = path.with_name(f"{path.stem}.covariance.json")
    write_json(covariance, plain(covariance_of(result, draws)))
    if draws is None:
        return [covariance]
    drawn = path.with_name(f"{path.stem}.draws.csv")
    write_text(drawn, draws_csv(result, draws))
    return [covariance, drawn]


def draws_csv(result: Fit, draws: Draws) -> str:
    """Return a row for every resample: the published parameters, empty where the resample is lost."""
    return csv_text(
        [
            {"resample": i, "is_good": int(draws.is_good_B[i])} | dict(zip(result.form.names, values, strict=True))
            for i, values in enumerate(draws.published_BQ)
        ]
    )


def covariance_of(result: Fit, draws: Draws | None) -> dict[str, Any]:
    """Return the covariance of the parameters by the curvature at the optimum, and over the draws.

    Coefficients count by their logarithms, exponents and constants as they are. By the curvature points are
    independent; the draws keep trunks together, and are without the lost resamples.
    """
    names, published = result.form.names, _coordinates(result.form, result.theta_P[None])[0]
    both = np.concatenate([np.eye(len(result.theta_P)), -np.eye(len(result.theta_P))]) * _STEP + result.theta_P
    up, down = np.split(_coordinates(result.form, both), 2)
    change_PQ = (up - down) / (2 * _STEP)
    jacobian_PN = result.form.law.evaluate(result.theta_P[None])[1][0]
    inverse_PP = np.linalg.pinv(jacobian_PN @ jacobian_PN.T, rcond=1e-18, hermitian=True)
    value: dict[str, Any] = {
        "parameters": [f"log {name}" if _is_coefficient(name) else name for name in names],
        "estimate": published,
        "curvature": error_of_points(result) ** 2 * change_PQ.T @ inverse_PP @ change_PQ,
        "draws": None,
        "num_draws": 0,
    }
    if draws is not None and draws.is_good_B.sum() > 1:
        good = _logarithms(result.form, draws.published_BQ[draws.is_good_B])
        value |= {"draws": np.cov(good, rowvar=False), "num_draws": len(good)}
    return value


def loss_errors(table: RunTable, result: Fit | None) -> tuple[Floats, str]:
    """Return the standard error of every loss and where it comes from: the column `loss_se`, else the fit's residuals.

    NaN where neither says.
    """
    spread = np.full(len(table), np.nan) if result is None else residual_error(result) * table.losses
    given = table.numbers.get("loss_se")
    if given is None:
        return floats(spread), "the spread of the runs around the law" if result is not None else "not known"
    return given, "the column loss_se: of the evaluation alone, not between seeds"


def run_rows(table: RunTable, result: Fit | None) -> list[dict[str, Any]]:
    """Return a row for every run: what it is, its loss with the standard error, and what the law says."""
    errors = loss_errors(table, result)[0]
    law = None if result is None else table.losses * np.exp(result.residual_N)
    rows = []
    for i in range(len(table)):
        row: dict[str, Any] = {"line": int(table.lines[i])}
        if "run_id" in table.texts:
            row["run_id"] = str(table.texts["run_id"][i])
        if len(table.architectures) > 1:
            row["architecture"] = str(table.architecture_N[i])
        row |= {"params_scaling": table.params[i], "tokens": table.tokens[i], "train_flops": table.flops[i]}
        row |= {"loss": table.losses[i], "loss_se": errors[i]}
        if law is not None:
            row |= {"law": law[i], "over_law_percent": 100 * (table.losses[i] / law[i] - 1)}
        rows.append(row)
    return rows


def _is_coefficient(name: str) -> bool:
    return name.partition("[")[0] in _COEFFICIENTS


def _logarithms(form: BoundForm, published_BQ: Floats) -> Floats:
    rows = [np.log(column) if _is_coefficient(name) else column
            for name, column in zip(form.names, published_BQ.T, strict=True)]  # fmt: skip
    return floats(np.stack(rows, axis=1))


def _coordinates(form: BoundForm, theta_BP: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return _logarithms(form, form.publish(theta_BP))
