"""The engine against finite differences, SciPy and planted laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling_tables import LAW, planted, planted_pair
from scipy.optimize import least_squares, linprog

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.forms import FORMS, bind
from sisa_scale.scaling.fit.objectives import Objective, cost, parse_objective
from sisa_scale.scaling.fit.solver import minimise, residuals
from sisa_scale.scaling.fit.terms import nonnegative_least_squares
from sisa_scale.scaling.table.table import table_of


def rich_table():
    """A table that every form can be bound to, with heavy-tailed noise."""
    base = planted(0.004, seed=3)
    generator = np.random.default_rng(11)
    losses = base.losses * np.exp(0.003 * generator.standard_t(2, len(base)))
    width = np.sqrt(base.params / 300) * generator.uniform(0.7, 1.4, len(base))
    depth = base.params / (12 * width**2)
    names = np.where(np.arange(len(base)) % 2, "x", "y")
    return table_of(base.params, base.tokens, losses, architecture=names, width=width, depth=depth,
                    tokens_unique=base.tokens / 3)  # fmt: skip


@pytest.mark.parametrize("name", list(FORMS))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_derivatives(name: str, seed: int) -> None:
    table = rich_table()
    form = bind(name, table)
    generator = np.random.default_rng(seed)
    starts = form.starts(table.losses)
    theta = starts[generator.integers(len(starts))] + 0.1 * generator.normal(size=form.law.num_parameters)
    log_loss, jacobian = form.law.evaluate(theta[None])
    for i in range(form.law.num_parameters):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        up, down = (form.law.evaluate((theta + sign * step)[None])[0][0] for sign in (1, -1))
        assert jacobian[0, i] == pytest.approx((up - down) / 2e-6, rel=2e-5, abs=2e-7 * max(1, np.abs(log_loss).max()))


def test_engine_is_the_formula() -> None:
    table = rich_table()
    form = bind("chinchilla", table_of(table.params, table.tokens, table.losses))
    theta = form.starts(table.losses)[::7]
    assert form.laws is not None
    expected = np.log(predict(form.laws(theta)[:, 0][:, None, :], table.params, table.tokens))
    assert form.law.evaluate(theta)[0] == pytest.approx(expected, abs=1e-12)


def test_agrees_with_scipy_on_resamples() -> None:
    table = planted(0.004, seed=1)
    result = fit(table)
    weights = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25), size=50).astype(float)
    found = minimise(result.form.law, table.losses, np.tile(result.theta_P, (50, 1)), Objective(), weight_BN=weights)
    assert found.is_converged_B.all()
    for b in range(50):
        rows = np.repeat(np.arange(25), weights[b].astype(int))

        def repeated(theta, rows=rows):
            return residuals(result.form.law, table.losses, theta[None], is_log=True)[0][0][rows]

        other = least_squares(repeated, result.theta_P, loss="huber", f_scale=1e-3,
                              x_scale="jac", ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=2000)  # fmt: skip
        assert found.cost_B[b] <= other.cost * (1 + 1e-8)


def test_least_absolute_deviations_are_optimal() -> None:
    """At the optimum no step of the linearised problem lowers Σ|r|."""
    table = planted(0.004, seed=2)
    result = fit(table, objective=parse_objective("lad"))
    r, J = residuals(result.form.law, table.losses, result.theta_P[None], is_log=True)
    count, p = len(table), len(result.theta_P)
    ones, box = np.eye(count), 1e-4
    upper = np.block([[J[0].T, -ones], [-J[0].T, -ones]])
    answer = linprog(np.r_[np.zeros(p), np.ones(count)], upper, np.r_[-r[0], r[0]],
                     bounds=[(-box, box)] * p + [(0, None)] * count)  # fmt: skip
    assert answer.fun == pytest.approx(result.cost, rel=1e-6)
    assert np.sum(np.abs(r[0]) < 1e-8) >= p  # an optimum of |r| goes through p points


def test_noise_free_laws_come_back() -> None:
    for law in (LAW, np.array([100.0, 3000.0, 1.2, 0.25, 0.45])):
        found = fit(planted(law=law)).laws_K5[0]
        assert found[2:] == pytest.approx(law[2:], abs=1e-6)
        assert np.log(found[:2]) == pytest.approx(np.log(law[:2]), abs=2e-5)


def test_gamma_form_comes_back() -> None:
    base = planted()
    losses = 1.1 + (40 * base.params**-0.5 + 300 * base.tokens**-0.55) ** 0.6
    result = fit(table_of(base.params, base.tokens, losses), "gamma")
    assert result.published["gamma"] == pytest.approx(0.6, abs=2e-3)
    assert result.published["E"] == pytest.approx(1.1, abs=5e-3)


def test_units_and_order_do_not_matter() -> None:
    table = planted(0.004, seed=5)
    law = fit(table).laws_K5[0]
    order = np.random.default_rng(0).permutation(25)
    assert fit(table.select(order)).laws_K5[0] == pytest.approx(law, rel=1e-6)
    scaled = fit(table_of(table.params * 1e3, table.tokens, table.losses)).laws_K5[0]
    assert scaled[2:] == pytest.approx(law[2:], rel=1e-6)


def test_repeated_rows_are_weights() -> None:
    table = planted(0.004, seed=6)
    twice = table.select(np.r_[np.arange(25), np.arange(5)])
    weights = np.r_[np.full(5, 2.0), np.ones(20)][None]
    result = fit(table)
    weighted = minimise(result.form.law, table.losses, result.theta_P[None], Objective(), weight_BN=weights)
    assert fit(twice).cost == pytest.approx(float(weighted.cost_B[0]), rel=1e-8)


@pytest.mark.parametrize("form", ["shared", "shared-e", "separate"])
def test_forms_for_architectures_contain_the_truth(form: str) -> None:
    result = fit(planted_pair(1.3, 1.1), form)
    assert result.cost < 1e-12
    assert result.laws_K5[0, 3:] == pytest.approx(LAW[3:], abs=1e-5)


def test_huber_between_squares_and_absolute_values() -> None:
    r, w = np.array([[0.5, -3.0]]), np.ones((1, 2))
    assert cost(r, w, 1.0)[0] == pytest.approx(0.125 + 2.5)
    assert cost(r, w, np.inf)[0] == pytest.approx(0.125 + 4.5)
    assert cost(r, w, 0.0)[0] == pytest.approx(3.5)


def test_nonnegative_least_squares() -> None:
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(20, 3, 12))
    found = nonnegative_least_squares(basis)
    assert (found >= 0).all()
    gradient = (basis @ (1 - (found[:, :, None] * basis).sum(1))[:, :, None])[:, :, 0]
    assert (gradient <= 1e-8).all()  # nothing is gained by raising any coefficient
    assert np.abs(gradient * found).max() < 1e-8
