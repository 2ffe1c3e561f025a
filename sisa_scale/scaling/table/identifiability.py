"""Does the table determine the law? Asked before any interval is printed.

On a ray of fixed tokens per parameter the two power terms are one, the fit slides along a ridge, and bootstrap
intervals are narrow and wrong. The curvature at the optimum shows it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.fitting import Fit, residual_error
from sisa_scale.scaling.fit.forms import PER_ARCHITECTURE
from sisa_scale.scaling.table.notices import Notice, refusal

MAX_CONDITION = 1e4
MAX_ERROR_OF_A = 0.2
_FIXED_RATIO, _NARROW_RATIO = 1.25, 4.0
_ABSENT_SHARE = 1e-3
_FLAT_SLOPE = 1e-6  # of log loss, for a change of a parameter's logarithm by 1
_LAD_INEFFICIENCY = 1.2533  # standard error of a median over that of a mean, for normal errors


@dataclass(frozen=True, slots=True)
class Identifiability:
    """condition: of the Jacobian with columns of length 1. error_of_a: standard error of a = β/(α+β) from curvature.

    noise: robust standard deviation of log loss around the law. correlation: of α and β. errors: standard errors of
    log A, log B, log E, α and β.
    """

    condition: float
    noise: float
    error_of_a: float | None
    correlation: float | None
    errors: dict[str, float]
    tokens_per_parameter_range: float
    irreducible_share: float | None
    notices: tuple[Notice, ...] = ()

    @property
    def is_identified(self) -> bool:
        """Whether intervals mean anything."""
        return self.condition <= MAX_CONDITION and (self.error_of_a or 0.0) <= MAX_ERROR_OF_A

    def as_json(self) -> dict[str, Any]:
        """Return it without the notices."""
        values = asdict(self)
        values.pop("notices")
        return values


def error_of_points(result: Fit) -> float:
    """Return the noise that makes (JᵀJ)⁻¹ the covariance of what was fitted: Huber's loss is near least deviations."""
    inefficiency = 1.0 if result.objective.kind == "squares" else _LAD_INEFFICIENCY
    return inefficiency * residual_error(result)


def examine(result: Fit) -> Identifiability:
    """Return what the curvature at the optimum says."""
    jacobian_PN = result.form.law.evaluate(result.theta_P[None])[1][0]
    noise, notices = residual_error(result), []
    share = None
    if result.form.laws is not None:
        predicted_N = result.table.losses * np.exp(result.residual_N)
        irreducible_N = np.array([result.law_of[str(name)][2] for name in _owners(result)])
        share = float(np.median(irreducible_N / predicted_N))
        if share < _ABSENT_SHARE:
            notices.append(Notice("irreducible-loss", "E is at zero: the losses do not bend yet, so E means nothing"))
            kept = np.linalg.norm(jacobian_PN, axis=1) > _ABSENT_SHARE * np.sqrt(len(result.table))
            jacobian_PN = jacobian_PN[kept]
    condition = condition_number(jacobian_PN)
    error, correlation, errors = None, None, {}
    if np.isfinite(condition) and result.form.laws is not None:
        covariance = published_covariance(result) * error_of_points(result) ** 2
        slope = exponent_slope(result.laws_K5[0])
        error = float(np.sqrt(max(float(slope @ covariance @ slope), 0.0)))
        deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        errors = dict(zip(("log_A", "log_B", "log_E", "alpha", "beta"), map(float, deviations), strict=True))
        if deviations[3] * deviations[4] > 0:
            correlation = float(covariance[3, 4] / (deviations[3] * deviations[4]))
    widest = ratio_range(result)
    if widest < _NARROW_RATIO:
        notices.append(Notice("narrow-ratio", f"the greatest tokens per parameter are {widest:.3g} times the least"))
    return Identifiability(condition, noise, error, correlation, errors, widest, share, tuple(notices))


def require(result: Fit) -> Identifiability:
    """Return `examine`, or raise RefusalError where α and β are not determined."""
    found = examine(result)
    where = result.table.path
    allocates = result.form.laws is not None
    remedy = "Vary parameters at fixed compute, by a factor of 4 to both sides; `sisa-scale laws design` ranks grids."
    if (allocates or result.form.name == "gamma") and found.tokens_per_parameter_range < _FIXED_RATIO:
        raise refusal(
            "fixed-tokens-per-parameter",
            where,
            found=f"tokens per parameter within a factor of {found.tokens_per_parameter_range:.3g} "
            f"(condition number {found.condition:.2g})",
            allowed="parameters and tokens must vary apart: on one ray α, β, A and B cannot be told apart, and an "
            "interval would be narrow and wrong",
            remedy=remedy,
        )
    slope_P = np.sqrt(np.mean(result.form.law.evaluate(result.theta_P[None])[1][0] ** 2, axis=1))
    if allocates and len(result.laws_K5) > 1 and slope_P.min() < _FLAT_SLOPE:
        raise refusal(
            "not-identified",
            where,
            found="an architecture whose losses do not depend on parameters, or on tokens, by this law: its "
            "efficiency runs to zero or infinity",
            allowed="losses of every architecture that fall with both",
            remedy="Give it more sizes or lengths, leave out runs that diverged, or leave it out (--architecture).",
        )
    if allocates and not found.is_identified:
        error = "unbounded" if found.error_of_a is None else f"{found.error_of_a:.2g}"
        raise refusal(
            "not-identified",
            where,
            found=f"condition number {found.condition:.2g}, standard error of β/(α+β) {error}",
            allowed=f"at most {MAX_CONDITION:g} and {MAX_ERROR_OF_A:g}",
            remedy=remedy,
        )
    return found


def condition_number(jacobian_PN: Floats) -> float:
    """Return the condition number of a Jacobian [P, N] with its columns scaled to length 1."""
    norms = np.linalg.norm(jacobian_PN, axis=1, keepdims=True)
    if not np.isfinite(jacobian_PN).all() or (norms <= 0).any():
        return float("inf")
    singular = np.linalg.svd(jacobian_PN / norms, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")


def ratio_range(result: Fit) -> float:
    """Return the range of tokens per parameter as a factor; of the architecture where it is widest."""
    ratio, owners = result.table.tokens / result.table.params, result.table.architecture_N
    names = result.table.architectures if result.form.name in PER_ARCHITECTURE else None
    parts = [ratio] if names is None else [ratio[owners == name] for name in names]
    return float(max(part.max() / part.min() for part in parts))


def exponent_slope(law_5: Floats) -> Floats:
    """Return the derivative of a = β/(α+β) by (log A, log B, log E, α, β)."""
    alpha, beta = law_5[3], law_5[4]
    return floats(np.array([0.0, 0.0, 0.0, -beta, alpha]) / (alpha + beta) ** 2)


def published_covariance(result: Fit) -> Floats:
    """Return (JᵀJ)⁻¹ for (log A, log B, log E, α, β) of the first architecture, per unit of noise variance."""
    assert result.form.laws is not None
    jacobian_PN = result.form.law.evaluate(result.theta_P[None])[1][0]
    inverse = np.linalg.pinv(jacobian_PN @ jacobian_PN.T, rcond=1e-18, hermitian=True)
    step = 1e-6
    both = np.concatenate([np.eye(len(result.theta_P)), -np.eye(len(result.theta_P))]) * step + result.theta_P
    laws = result.form.laws(both)[:, 0]
    with np.errstate(all="ignore"):  # a coefficient without bound is not determined: the result is not finite
        values = np.concatenate([np.log(laws[:, :3]), laws[:, 3:]], axis=1)
        up, down = np.split(values, 2)
        change_P5 = (up - down) / (2 * step)
        return floats(change_P5.T @ inverse @ change_P5)


def _owners(result: Fit) -> list[str]:
    if result.form.name in PER_ARCHITECTURE:
        return [str(name) for name in result.table.architecture_N]
    return [result.table.architectures[0]] * len(result.table)
