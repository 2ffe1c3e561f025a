"""Results as plain values for JSON: every command has parameters, objective, intervals and diagnostics."""

from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

import sisa_scale
from sisa_scale.scaling.fit.bootstrap import LEVEL, Draws, a_of
from sisa_scale.scaling.fit.fitting import Fit, parameters_of
from sisa_scale.scaling.fit.forms import LAW
from sisa_scale.scaling.table.identifiability import Identifiability
from sisa_scale.scaling.table.notices import Notice, RefusalError


def fit_values(
    result: Fit,
    found: Identifiability,
    draws: Draws | None,
    notices: Iterable[Notice],
    level: float = LEVEL,
    jackknifed: Draws | None = None,
) -> dict[str, Any]:
    """Return parameters, objective, intervals and diagnostics of a fit. jackknifed: make the intervals BCa."""
    table = result.table
    parameters = parameters_of(result)
    value: dict[str, Any] = {"parameters": parameters, "objective": result.cost}
    value["intervals"] = {} if draws is None else intervals_of(result, draws, level, jackknifed)
    if result.form.laws is not None:
        value["a"] = float(a_of(result.laws_K5[0]))
        if len(result.laws_K5) > 1:
            value["by_architecture"] = {
                name: dict(zip(LAW, map(float, law), strict=True)) for name, law in result.law_of.items()
            }
    value["diagnostics"] = {
        "form": result.form.name,
        "objective": result.objective.name,
        "num_points": len(table),
        "num_clusters": len(np.unique(table.cluster_N)),
        "architectures": table.architectures,
        "table": table.path,
        "table_sha256": table.sha256,
        "version": sisa_scale.__version__,
        "num_starts": result.num_starts,
        "share_of_starts_at_optimum": result.share_of_starts,
        "level": level,
        "interval_method": None if draws is None else "percentile" if jackknifed is None else "bca",
        "num_resamples": 0 if draws is None else len(draws.is_good_B),
        "share_of_resamples_lost": None if draws is None else draws.lost,
        "identifiability": found.as_json(),
        "warnings": warnings(notices),
    }
    return value


def intervals_of(
    result: Fit, draws: Draws, level: float = LEVEL, jackknifed: Draws | None = None
) -> dict[str, list[float] | None]:
    """Return the intervals of A, B, E, alpha, beta, a and the form's own parameters."""
    if draws.laws_BK5 is None:
        return {name: draws.interval(draws.published_BQ[:, i], level) for i, name in enumerate(result.form.names)}
    laws = draws.laws_BK5[:, 0]
    columns = {name: laws[:, i] for i, name in enumerate(LAW)} | {"a": a_of(laws)}
    own = range(result.laws_K5.size, len(result.form.names))  # what the form has beside its law
    columns |= {result.form.names[i]: draws.published_BQ[:, i] for i in own}
    if jackknifed is None:
        return {name: draws.interval(column, level) for name, column in columns.items()}
    assert jackknifed.laws_BK5 is not None
    without = jackknifed.laws_BK5[:, 0]
    others = {name: without[:, i] for i, name in enumerate(LAW)} | {"a": a_of(without)}
    others |= {result.form.names[i]: jackknifed.published_BQ[:, i] for i in own}
    points = {**parameters_of(result), "a": float(a_of(result.laws_K5[0]))}
    return {name: draws.bca(column, points[name], others[name], level) for name, column in columns.items()}


def warnings(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """Return notices as plain values, each once."""
    return [{"code": notice.code, "text": notice.text} for notice in dict.fromkeys(notices)]


def refusal_values(error: RefusalError, notices: Iterable[Notice] = ()) -> dict[str, Any]:
    """Return the shape of a result for a refusal: no numbers, the reason, and what was noticed before."""
    problems = [{"code": error.code, **asdict(problem)} for problem in error.problems]
    return {
        "parameters": None,
        "objective": None,
        "intervals": None,
        "diagnostics": {"refused": problems, "warnings": warnings(notices)},
    }


def plain(value: Any) -> Any:
    """Return a value with dataclasses and arrays as plain ones, and numbers that are not finite as None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
