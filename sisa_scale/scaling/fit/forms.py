"""The forms of the law, bound to a table.

chinchilla        L = E + A N^-α + B D^-β
shared            L = E + A (ρ_N N)^-α + B (ρ_D D)^-β, exponents and E shared, efficiencies per architecture
shared-e          the same with E per architecture
separate          everything per architecture
gamma             L = E + (A N^-α + B D^-β)^γ
farseer           L = exp(a₃N^γ + b₃) + exp(a₂N^β + b₂) D^-exp(a₁N^α + b₁)
width-depth       L = E + A w^-α + G d^-δ + B D^-β
data-constrained  chinchilla with N' and D', what parameters and tokens are worth beside U unique tokens
compute           L = E + K C^-γ
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, Integers
from sisa_scale.scaling.fit.data_constrained import FULL, NOTHING, PUBLISHED, DataConstrained, effective_tokens
from sisa_scale.scaling.fit.nested_forms import Farseer, Gamma
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.fit.solver import Law, minimise
from sisa_scale.scaling.fit.terms import SumOfPowers, Term
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

_GRID = np.linspace(0.05, 1.0, 8)
# Forms whose exponents are not asked to be positive start from rising losses too, else they would never find them.
_COARSE_GRID = np.array([-0.4, *np.linspace(0.1, 0.9, 5)])
_COMPUTE_GRID = np.array([-0.3, -0.1, *np.linspace(0.02, 0.6, 16)])
LAW = ("A", "B", "E", "alpha", "beta")


@dataclass(frozen=True, slots=True)
class BoundForm:
    """A form bound to points.

    names: published parameters [Q]. publish: solver parameters [B, P] -> published [B, Q]. laws: solver parameters ->
    (A, B, E, α, β) [B, K, 5] of every architecture, for forms of Chinchilla's shape, whose `names` begin with them.
    """

    name: str
    law: Law
    names: tuple[str, ...]
    publish: Callable[[Floats], Floats]
    starts: Callable[[Floats], Floats]
    laws: Callable[[Floats], Floats] | None = None
    num_sizes_needed: int = 3
    notices: tuple[Notice, ...] = ()


def bind(name: str, table: RunTable) -> BoundForm:
    """Bind a form to a table. Raises RefusalError `bad-request` for an unknown form or a missing column."""
    if name not in FORMS:
        raise refusal(
            "bad-request",
            "--form",
            found=repr(name),
            allowed=f"the forms are {', '.join(FORMS)}",
            remedy="chinchilla is the usual one.",
        )
    return FORMS[name](table)


def groups(table: RunTable) -> Integers:
    """Return the number of the architecture of every point."""
    order = {name: number for number, name in enumerate(table.architectures)}
    return np.array([order[str(name)] for name in table.architecture_N])


def _power_law(
    name: str, table: RunTable, tokens: Floats, *, coefficients: bool, irreducible: bool, exponents: bool
) -> BoundForm:
    own = groups(table)
    shared = np.zeros(len(table), dtype=np.int64)
    by = own if coefficients else shared
    powers = own if exponents else shared
    law = SumOfPowers(
        (
            Term("A", by, np.log(table.params), "alpha", powers, "parameters"),
            Term("B", by, np.log(tokens), "beta", powers, "tokens"),
            Term("E", own if irreducible else shared),
        )
    )
    number = int(by.max()) + 1

    def laws(theta_BP: Floats) -> Floats:
        parts = [law.coefficients(theta_BP, i) for i in range(3)] + [law.exponents(theta_BP, i) for i in range(2)]
        return np.stack([np.broadcast_to(part, (len(theta_BP), number)) for part in parts], axis=2)

    names = tuple(f"{key}[{kind}]" for kind in table.architectures for key in LAW) if number > 1 else LAW
    return BoundForm(
        name,
        law,
        names,
        publish=lambda theta_BP: laws(theta_BP).reshape(len(theta_BP), -1),
        starts=lambda losses: law.starts(losses, _GRID),
        laws=laws,
    )


def _chinchilla(table: RunTable) -> BoundForm:
    return _power_law("chinchilla", table, table.tokens, coefficients=False, irreducible=False, exponents=False)


def _shared(table: RunTable) -> BoundForm:
    return _power_law("shared", table, table.tokens, coefficients=True, irreducible=False, exponents=False)


def _shared_e(table: RunTable) -> BoundForm:
    return _power_law("shared-e", table, table.tokens, coefficients=True, irreducible=True, exponents=False)


def _separate(table: RunTable) -> BoundForm:
    return _power_law("separate", table, table.tokens, coefficients=True, irreducible=True, exponents=True)


def _data_constrained(table: RunTable) -> BoundForm:
    unique = _column(table, "tokens_unique", "data-constrained")
    tokens = effective_tokens(table.tokens, unique)
    inner = _power_law("chinchilla", table, tokens, coefficients=False, irreducible=False, exponents=False)

    centre = minimise(inner.law, table.losses, inner.starts(table.losses), Objective(), tolerance=1e-8)
    chinchilla_P = centre.theta_BP[np.nanargmin(centre.cost_B)]

    def best(law: DataConstrained) -> tuple[Floats, float]:
        found = minimise(law, table.losses, law.starts(chinchilla_P), Objective())
        row = int(np.nanargmin(found.cost_B))
        return found.theta_BP[row], float(found.cost_B[row])

    law = DataConstrained(table.params, table.tokens, unique)
    while law.fitted and (name := law.undetermined(best(law)[0], table.losses)) is not None:
        law = _hold(law, name, best)
    held = " and ".join(f"{name} = {_said(name, value)}" for name, value in law.held.items())
    text = f"{held}: the runs do not determine {'them' if len(law.held) > 1 else 'it'}"
    return BoundForm(
        "data-constrained",
        law,
        (*LAW, *law.fitted),
        law.publish,
        starts=lambda losses: law.starts(chinchilla_P),
        laws=law.laws,
        notices=(Notice("held-constants", text),) if held else (),
    )


def _hold(law: DataConstrained, name: str, best: Callable[[DataConstrained], tuple[Floats, float]]) -> DataConstrained:
    """Return the law with a constant held: as published, unless full or no value describes the runs better (AIC)."""
    tried = [law.holding(name, value) for value in (PUBLISHED[name], FULL, NOTHING)]
    costs = [max(best(one)[1], 1e-300) for one in tried]
    least = int(np.argmin(costs))
    return tried[least if law.num_points * np.log(costs[0] / costs[least]) > 1 else 0]


def _said(name: str, value: float) -> str:
    if value == PUBLISHED[name]:
        return f"{value:.4g}, as published"
    what = "repeated tokens" if name == "R_D_star" else "parameters in excess"
    return f"infinite, {what} count fully" if value == FULL else f"0, {what} count nothing"


def _width_depth(table: RunTable) -> BoundForm:
    zero = np.zeros(len(table), dtype=np.int64)
    width, depth = (np.log(_column(table, name, "width-depth")) for name in ("width", "depth"))
    law = SumOfPowers(
        (
            Term("A", zero, width, "alpha", zero, "width"),
            Term("G", zero, depth, "delta", zero, "depth"),
            Term("B", zero, np.log(table.tokens), "beta", zero, "tokens"),
            Term("E", zero),
        )
    )
    return _named("width-depth", law, ("A", "G", "B", "E", "alpha", "delta", "beta"), _COARSE_GRID)


def _compute(table: RunTable) -> BoundForm:
    zero = np.zeros(len(table), dtype=np.int64)
    law = SumOfPowers((Term("K", zero, np.log(table.flops), "gamma", zero, "FLOPs"), Term("E", zero)))
    return _named("compute", law, ("K", "E", "gamma"), _COMPUTE_GRID)


def _named(name: str, law: SumOfPowers, names: tuple[str, ...], grid: Floats) -> BoundForm:
    variable = [i for i, term in enumerate(law.terms) if term.num_exponents]

    def publish(theta_BP: Floats) -> Floats:
        values = [law.coefficients(theta_BP, i) for i in range(len(law.terms))]
        return np.concatenate(values + [law.exponents(theta_BP, i) for i in variable], axis=1)

    def starts(losses: Floats) -> Floats:
        return law.starts(losses, grid)

    return BoundForm(name, law, names, publish, starts)


def _gamma(table: RunTable) -> BoundForm:
    law = Gamma(np.log(table.params), np.log(table.tokens))
    inner = _chinchilla(table)
    return BoundForm(
        "gamma",
        law,
        (*LAW, "gamma"),
        law.publish,
        starts=lambda losses: law.starts(inner.starts(losses)),
        laws=None,
    )


def _farseer(table: RunTable) -> BoundForm:
    law = Farseer(np.log(table.params), np.log(table.tokens))
    inner = _chinchilla(table)
    return BoundForm(
        "farseer",
        law,
        ("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma"),
        law.publish,
        starts=lambda losses: law.starts(inner.starts(losses), inner.law, losses),
        num_sizes_needed=5,
    )


def _column(table: RunTable, name: str, form: str) -> Floats:
    if name not in table.numbers:
        raise refusal(
            "missing-column",
            table.path,
            found=f"no column {name}",
            allowed=f"the form {form} needs it",
            remedy=f"Add it, or map it with --columns {name}=NAME.",
        )
    return table.numbers[name]


FORMS: dict[str, Callable[[RunTable], BoundForm]] = {
    "chinchilla": _chinchilla,
    "shared": _shared,
    "shared-e": _shared_e,
    "separate": _separate,
    "gamma": _gamma,
    "farseer": _farseer,
    "width-depth": _width_depth,
    "data-constrained": _data_constrained,
    "compute": _compute,
}
PER_ARCHITECTURE = ("shared", "shared-e", "separate")
