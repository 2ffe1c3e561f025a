"""Forecasts that are written down before the runs exist, and scored afterwards.

The file holds the predictions, the SHA-256 of the table they come from and of all its rows, the time, and a SHA-256
of itself: a forecast that was edited, or a run that was known, is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import sisa_scale
from sisa_scale.files import write_json
from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, Draws
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.fit.student import quantile
from sisa_scale.scaling.table.notices import refusal
from sisa_scale.scaling.table.table import RunTable

FORMAT = "sisa-scale forecast 1"
_SAME = 1e-3  # relative: a run of these parameters and tokens is the one that was predicted


@dataclass(frozen=True, slots=True)
class Prediction:
    """A loss to come: the interval is of one new run, so it holds the noise between runs too."""

    architecture: str
    params_scaling: float
    tokens: float
    loss: float
    interval: list[float]


@dataclass(frozen=True, slots=True)
class Score:
    """A prediction beside what came."""

    prediction: Prediction
    measured: float
    relative_error: float
    is_inside: bool


def predict_runs(
    result: Fit,
    draws: Draws,
    architecture: str,
    params: Floats,
    tokens: Floats,
    *,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Prediction]:
    """Predict losses with intervals from resampled laws and resampled residuals."""
    assert draws.laws_BK5 is not None
    generator = np.random.default_rng(seed)
    k = result.table.architectures.index(architecture)
    laws_B5 = draws.laws_BK5[:, min(k, draws.laws_BK5.shape[1] - 1)]
    law = result.laws_K5[min(k, len(result.laws_K5) - 1)]
    # Fitted residuals are smaller than errors, by the parameters that were fitted.
    count, fitted = len(result.table), result.form.law.num_parameters
    residuals = result.residual_N * np.sqrt(count / max(count - fitted, 1))
    found = []
    for size, duration in zip(params, tokens, strict=True):
        drawn = predict(laws_B5, float(size), float(duration)) * np.exp(-generator.choice(residuals, len(laws_B5)))
        interval = draws.interval(drawn, level)
        if interval is None:
            raise refusal(
                "not-identified",
                result.table.path,
                found=f"{draws.lost:.1%} of the resamples without a law, of {draws.num_clusters} clusters",
                allowed=f"fewer than leave an interval of {level:.0%} open",
                remedy="Add trunks: more sizes, longer runs, or more seeds of each; or lower --level.",
            )
        loss = float(predict(law, float(size), float(duration)))
        found.append(Prediction(architecture, float(size), float(duration), loss, interval))
    return found


def predict_by_plane(
    table: RunTable, architecture: str, params: float, tokens: float, *, level: float = LEVEL
) -> Prediction:
    """Predict a loss where no law can be fitted: log loss is a plane over log parameters and log tokens.

    Architectures share the slopes and have levels of their own; the interval is that of least squares for one new run.
    A plane knows no irreducible loss, so it serves for near runs. Raises RefusalError `not-identified` where no
    residual is left.
    """
    names = table.architectures
    levels_NK = (table.architecture_N[:, None] == np.array(names)).astype(float)
    basis = np.column_stack([np.log(table.params), np.log(table.tokens), levels_NK])
    degrees = len(table) - int(np.linalg.matrix_rank(basis))
    are_slopes_known = np.linalg.matrix_rank(basis) == basis.shape[1]
    if degrees < 1 or not are_slopes_known or architecture not in names:
        raise refusal(
            "not-identified",
            table.path,
            found=f"{len(table)} runs of {', '.join(names)}",
            allowed=f"two sizes, two lengths and a run more of {architecture} and others are needed for a forecast",
            remedy="Run more of the smaller trials first.",
        )
    solved = np.linalg.pinv(basis)
    found = solved @ np.log(table.losses)
    noise = float(np.sqrt(((np.log(table.losses) - basis @ found) ** 2).sum() / degrees))
    point = np.concatenate([[np.log(params), np.log(tokens)], [float(name == architecture) for name in names]])
    middle = float(point @ found)
    half = quantile(level, degrees) * noise * float(np.sqrt(1 + point @ (solved @ solved.T) @ point))
    interval = [float(np.exp(middle - half)), float(np.exp(middle + half))]
    return Prediction(architecture, params, tokens, float(np.exp(middle)), interval)


def register(
    path: Path, table: RunTable, form: str, objective: str, predictions: list[Prediction], level: float = LEVEL
) -> dict[str, Any]:
    """Write a forecast from a table to a new file and return it; form, objective: how it was made.

    Raises RefusalError `bad-request` if the file exists.
    """
    if path.exists():
        raise refusal(
            "bad-request",
            path,
            found="a file of that name",
            allowed="a forecast is written once",
            remedy="Give another name with -o.",
        )
    value: dict[str, Any] = {
        "format": FORMAT,
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": sisa_scale.__version__,
        "table_sha256": table.sha256,
        "rows_sha256": [row_hash(*row) for row in _rows(table)],
        "form": form,
        "objective": objective,
        "level": level,
        "predictions": [_plain(one) for one in predictions],
    }
    value["sha256"] = _digest(value)
    write_json(path, value)
    return value


def load_forecast(path: Path) -> dict[str, Any]:
    """Read a forecast. Raises RefusalError `forecast-altered` unless it is what was registered."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        sha256 = value.pop("sha256")
        is_whole = value["format"] == FORMAT and sha256 == _digest(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise refusal(
            "forecast-altered",
            path,
            found="no forecast, or one whose content does not match its SHA-256",
            allowed="a forecast is scored as it was registered",
            remedy="Use the file that `laws forecast register` wrote.",
        )
    return {**value, "sha256": sha256}


def score(forecast: dict[str, Any], table: RunTable, where: object) -> list[Score]:
    """Compare predictions with the runs of a table that have the same architecture, parameters and tokens.

    Raises RefusalError `forecast-seen` when such a run was in the table of the forecast, and `bad-request` when there
    is no run to score.
    """
    known = set(forecast["rows_sha256"])
    found = []
    for values in forecast["predictions"]:
        one = Prediction(**values)
        for name, params, tokens, loss in _rows(table):
            is_same = abs(params / one.params_scaling - 1) < _SAME and abs(tokens / one.tokens - 1) < _SAME
            if name != one.architecture or not is_same:
                continue
            if row_hash(name, params, tokens, loss) in known:
                raise refusal(
                    "forecast-seen",
                    where,
                    found=f"{name} with {params:g} parameters and {tokens:g} tokens in both tables",
                    allowed="only runs that the forecast did not know are scored",
                    remedy="Predict a run that has not been made.",
                )
            error = loss / one.loss - 1
            found.append(Score(one, loss, error, one.interval[0] <= loss <= one.interval[1]))
    if not found:
        raise refusal(
            "bad-request",
            where,
            found="no run of the predicted architectures, parameters and tokens",
            allowed="parameters and tokens agree to 0.1 %",
            remedy="Give the table with the finished runs.",
        )
    return found


def row_hash(architecture: str, params: float, tokens: float, loss: float) -> str:
    """Return 16 hexadecimal digits for a row of a table."""
    return hashlib.sha256(f"{architecture} {params!r} {tokens!r} {loss!r}".encode()).hexdigest()[:16]


def _rows(table: RunTable) -> list[tuple[str, float, float, float]]:
    columns = (table.architecture_N.tolist(), table.params.tolist(), table.tokens.tolist(), table.losses.tolist())
    return list(zip(*columns, strict=True))


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(one: Prediction) -> dict[str, Any]:
    return {
        "architecture": one.architecture,
        "params_scaling": one.params_scaling,
        "tokens": one.tokens,
        "loss": one.loss,
        "interval": one.interval,
    }
