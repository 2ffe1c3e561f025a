"""The engine for laws that are sums of powers: log L = logsumexp over terms of (log coefficient − exponent·log x).

Every parameter belongs to one term, so the derivatives are the terms' shares of the loss times a column. Columns are
centred, which keeps coefficients and exponents apart for the solver. Coefficients or exponents may differ by group
(architecture) or be shared. Shapes: see `arrays`; T term, G group.
"""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, Integers


@dataclass(frozen=True, slots=True)
class Term:
    """One power. log_x_N: the variable, None for a constant, and its name; group arrays count from 0."""

    coefficient: str
    coefficient_group_N: Integers
    log_x_N: Floats | None = None
    exponent: str = ""
    exponent_group_N: Integers | None = None
    variable: str = ""

    @property
    def num_coefficients(self) -> int:
        """Groups of the coefficient."""
        return int(self.coefficient_group_N.max()) + 1

    @property
    def num_exponents(self) -> int:
        """Groups of the exponent, 0 for a constant."""
        return 0 if self.exponent_group_N is None else int(self.exponent_group_N.max()) + 1


class SumOfPowers:
    """Terms bound to their points."""

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        columns: list[Floats] = []
        self._slices: list[slice] = []
        self._centres: list[float] = []
        owners: list[int] = []
        for number, term in enumerate(terms):
            first = len(columns)
            for group in range(term.num_coefficients):
                columns.append((term.coefficient_group_N == group).astype(np.float64))
            centre = 0.0 if term.log_x_N is None else float(term.log_x_N.mean())
            for group in range(term.num_exponents):
                assert term.log_x_N is not None and term.exponent_group_N is not None
                columns.append(-(term.log_x_N - centre) * (term.exponent_group_N == group))
            self._slices.append(slice(first, len(columns)))
            self._centres.append(centre)
            owners += [number] * (len(columns) - first)
        self._columns_PN = np.stack(columns)
        self._owner_P = np.array(owners)

    @property
    def num_parameters(self) -> int:
        """P: logarithms of coefficients and exponents of all terms."""
        return len(self._owner_P)

    def evaluate(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Return log loss [B, N] and its derivatives [B, P, N]."""
        log_TBN = np.stack([theta_BP[:, part] @ self._columns_PN[part] for part in self._slices])
        greatest_BN = log_TBN.max(0)
        share_TBN = np.exp(log_TBN - greatest_BN)
        total_BN = share_TBN.sum(0)
        share_TBN /= total_BN
        jacobian_BPN = share_TBN.transpose(1, 0, 2)[:, self._owner_P] * self._columns_PN
        return np.log(total_BN) + greatest_BN, jacobian_BPN

    def slopes(self, theta_BP: Floats) -> dict[str, Floats]:
        """Return d log loss / d log variable [B, N]; a loss rises where an exponent is negative."""
        log_BN = self.evaluate(theta_BP)[0]
        found: dict[str, Floats] = {}
        for number, term in enumerate(self.terms):
            if term.exponent_group_N is not None:
                part = self._slices[number]
                share_BN = np.exp(theta_BP[:, part] @ self._columns_PN[part] - log_BN)
                found[term.variable] = -self.exponents(theta_BP, number)[:, term.exponent_group_N] * share_BN
        return found

    def coefficients(self, theta_BP: Floats, term: int) -> Floats:
        """Return the coefficients of a term [B, G] in the units of its variable."""
        part, number = self._slices[term], self.terms[term].num_coefficients
        log_BG = theta_BP[:, part][:, :number] + self.exponents(theta_BP, term) * self._centres[term]
        with np.errstate(over="ignore"):
            return np.exp(log_BG)

    def exponents(self, theta_BP: Floats, term: int) -> Floats:
        """Return the exponents of a term [B, G or 1]; 0 for a constant."""
        if not self.terms[term].num_exponents:
            return np.zeros((len(theta_BP), 1))
        return theta_BP[:, self._slices[term]][:, self.terms[term].num_coefficients :]

    def theta(self, coefficients: list[Floats], exponents: list[Floats]) -> Floats:
        """Return solver parameters [B, P] from coefficients [B, 1 or G] and exponents [B, 1 or G] of every term."""
        parts = []
        for number, term in enumerate(self.terms):
            log_BG = np.log(coefficients[number]) - exponents[number] * self._centres[number]
            parts.append(np.broadcast_to(log_BG, (len(log_BG), term.num_coefficients)))
            if term.num_exponents:
                parts.append(np.broadcast_to(exponents[number], (len(log_BG), term.num_exponents)))
        return np.concatenate(parts, axis=1)

    def starts(self, losses_N: Floats, exponents: Floats) -> Floats:
        """Return one start [B, P] for every combination of `exponents` in the terms that have one.

        Given exponents the loss is linear in the coefficients: least squares of relative residuals, not negative
        (variable projection).
        """
        variables = [i for i, term in enumerate(self.terms) if term.num_exponents]
        grid_BV = np.stack(np.meshgrid(*[exponents] * len(variables), indexing="ij"), -1).reshape(-1, len(variables))
        basis_BTN = np.ones((len(grid_BV), len(self.terms), len(losses_N)))
        for column, i in enumerate(variables):
            x_N = self.terms[i].log_x_N
            assert x_N is not None
            basis_BTN[:, i] = np.exp(-grid_BV[:, column, None] * (x_N - self._centres[i]))
        found_BT = nonnegative_least_squares(basis_BTN / losses_N)
        found_BT = np.maximum(found_BT, 1e-4 * losses_N.mean())
        powers = [np.zeros((len(grid_BV), 1)) for _ in self.terms]
        for column, i in enumerate(variables):
            powers[i] = grid_BV[:, column, None]
        scaled = [found_BT[:, i, None] * np.exp(powers[i] * self._centres[i]) for i in range(len(self.terms))]
        return self.theta(scaled, powers)


def nonnegative_least_squares(basis_BTN: Floats) -> Floats:
    """Return c >= 0 [B, T] that minimises |Σ c·basis − 1|² for every row, by trying every set of active terms."""
    num_rows, num_terms, num_points = basis_BTN.shape
    gram = basis_BTN @ basis_BTN.transpose(0, 2, 1)
    right = basis_BTN.sum(2)
    best, best_cost = np.zeros((num_rows, num_terms)), np.full(num_rows, float(num_points))
    for chosen in range(1, 2**num_terms):
        index = [i for i in range(num_terms) if chosen >> i & 1]
        part = gram[:, index][:, :, index]
        ridge = 1e-13 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(index))
        found = np.linalg.solve(part + ridge, right[:, index, None])[:, :, 0]
        remaining = num_points - (found * right[:, index]).sum(1)
        is_better = (found >= 0).all(1) & (remaining < best_cost)
        full = np.zeros((num_rows, num_terms))
        full[:, index] = found
        best[is_better], best_cost[is_better] = full[is_better], remaining[is_better]
    return best
