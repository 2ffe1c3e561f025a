"""Approach 2: its bias in closed form, and the correction."""

import numpy as np
import pytest
from scaling_tables import LAW, planted

from sisa_scale.scaling.allocation.envelope import envelope
from sisa_scale.scaling.allocation.frontier import Cost, allocate, predict
from sisa_scale.scaling.allocation.isoflop import group_budgets, isoflop, vertex_shift
from sisa_scale.scaling.design.ranking import isoflop_design
from sisa_scale.scaling.fit.student import quantile
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import table_of

CHINCHILLA = np.array([406.4, 410.7, 1.69, 0.34, 0.28])
ASYMMETRIC = np.array([406.4, 410.7, 1.69, 0.465, 0.155])
SYMMETRIC = np.array([406.4, 410.7, 1.69, 0.31, 0.31])


def grid(law: np.ndarray, spread: float = 16.0, count: int = 15):
    design = isoflop_design(np.geomspace(1e17, 1e21, 5), count, spread, law)
    return table_of(design.params, design.tokens, predict(law, design.params, design.tokens))


@pytest.mark.parametrize(
    ("law", "fitted", "true"),
    [(CHINCHILLA, -0.578092, -0.555357), (ASYMMETRIC, -1.459957, -1.345791)],
)
def test_golden_intercepts(law: np.ndarray, fitted: float, true: float) -> None:
    found = isoflop(grid(law), "tokens", law)
    assert found.exponent == pytest.approx(law[3] / (law[3] + law[4]), abs=1e-9)
    assert np.log10(found.factor) == pytest.approx(fitted, abs=1e-6)
    assert found.corrected_factor is not None
    assert np.log10(found.corrected_factor) == pytest.approx(true, abs=1e-6)


def test_closed_form_is_the_numeric_shift() -> None:
    for law in (CHINCHILLA, ASYMMETRIC, SYMMETRIC):
        found = isoflop(grid(law), "tokens", law)
        for budget in found.budgets:
            shift = np.log(budget.vertex / budget.corrected)
            assert shift == pytest.approx(vertex_shift(np.log(16), law[3], law[4], 15), abs=1e-9)
    assert vertex_shift(np.log(16), 0.31, 0.31, 15) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("law", "errors"), [(CHINCHILLA, (-0.33, -1.30, -2.90, -5.10)), (ASYMMETRIC, (-1.7, -6.5, -13.9, -23.1))]
)
def test_bias_grows_with_the_width_of_the_grid(law: np.ndarray, errors: tuple[float, ...]) -> None:
    for spread, error in zip((2, 4, 8, 16), errors, strict=True):
        assert 100 * np.expm1(vertex_shift(np.log(spread), law[3], law[4], 15)) == pytest.approx(error, abs=0.06)


def test_optimum_at_the_edge_is_named_and_left_out() -> None:
    base = grid(LAW, 8.0, 7)
    small = base.select(np.r_[np.arange(28), np.arange(28, 32)])  # the last budget has no model above the optimum
    found = isoflop(small)
    assert [budget.is_inside for budget in found.budgets] == [True, True, True, True, False]
    assert [notice.code for notice in found.notices] == ["optimum-at-edge"]
    assert found.exponent == pytest.approx(LAW[4] / (LAW[3] + LAW[4]), abs=1e-6)


def test_few_sizes_are_refused() -> None:
    with pytest.raises(RefusalError) as caught:
        isoflop(grid(LAW, 4.0, 3))
    assert caught.value.code == "no-isoflop"


def test_budgets_are_found_without_a_column() -> None:
    assert [len(rows) for rows in group_budgets(planted())] == [5] * 5


def test_envelope() -> None:
    table = planted()
    found = envelope(table)
    assert found.exponent == pytest.approx(LAW[4] / (LAW[3] + LAW[4]), abs=0.01)
    assert (np.diff(table.losses[found.rows]) < 0).all()


@pytest.mark.parametrize(("num_sizes", "noise"), [(4, 0.003), (4, 0.01), (5, 0.001), (7, 0.003)])
def test_intervals_hold_what_they_promise(num_sizes: int, noise: float) -> None:
    """200 worlds: 95 % within three standard errors of the count, and no wider than the spread over worlds asks for.

    tools/scaling_coverage.py has the table of more cells and worlds.
    """
    truth, worlds = LAW[4] / (LAW[3] + LAW[4]), 200
    inside = {"exponent": 0, "vertex": 0}
    exponents, widths = [], []
    base = grid(LAW, 4.0, num_sizes)
    for seed in range(worlds):
        errors = noise * np.random.default_rng([num_sizes, round(1e4 * noise), seed]).normal(size=len(base))
        found = isoflop(table_of(base.params, base.tokens, base.losses * np.exp(errors)), law_5=LAW)
        assert found.corrected_interval is not None
        low, high = found.corrected_interval
        inside["exponent"] += low <= truth <= high
        exponents.append(found.corrected_exponent)
        widths.append(high - low)
        middle = found.budgets[2]
        assert middle.vertex_interval is not None
        best = allocate(LAW, middle.flops, Cost()).params
        inside["vertex"] += middle.vertex_interval[0] <= best <= middle.vertex_interval[1]
    assert all(0.90 <= count / worlds <= 0.99 for count in inside.values()), inside
    degrees = 5 * (num_sizes - 3)
    assert np.mean(widths) == pytest.approx(2 * quantile(0.95, degrees) * np.std(exponents), rel=0.2)


def test_noise_is_pooled_over_budgets() -> None:
    """A budget whose points lie on their parabola by chance is no better known than its neighbours."""
    base = grid(LAW, 4.0, 5)
    errors = 0.003 * np.random.default_rng(3).normal(size=len(base))
    errors[10:15] = 0
    found = isoflop(table_of(base.params, base.tokens, base.losses * np.exp(errors)), law_5=LAW)
    widths = [np.log(one.vertex_interval[1] / one.vertex_interval[0]) for one in found.budgets if one.vertex_interval]
    assert widths[2] == pytest.approx(np.sqrt(widths[1] * widths[3]), rel=0.2)


def test_a_flat_parabola_leaves_its_vertex_open() -> None:
    base = grid(LAW, 1.3, 5)
    losses = base.losses * np.exp(0.01 * np.random.default_rng(1).normal(size=len(base)))
    try:
        found = isoflop(table_of(base.params, base.tokens, losses), law_5=LAW)
    except RefusalError as error:
        pytest.fail(f"another seed is needed: {error}")
    assert any(budget.vertex_interval == [0.0, np.inf] for budget in found.budgets)


def test_two_budgets_have_vertices_and_no_exponent() -> None:
    base = planted(0.002)
    two = base.select(np.flatnonzero(base.flops < 5e18))
    found = isoflop(two)
    assert len(found.budgets) == 2
    assert (found.exponent, found.factor, found.interval, found.corrected_exponent) == (None, None, None, None)
    assert all(low < budget.vertex < high for budget in found.budgets for low, high in [budget.vertex_interval])
    assert [notice.code for notice in found.notices] == ["two-budgets"]
