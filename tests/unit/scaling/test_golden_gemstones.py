"""Published Gemstones optima: objective, E and exponents."""

import pytest
from scaling_tables import GOLDEN

from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.objectives import parse_objective
from sisa_scale.scaling.table.checks import load_table

ROWS = [
    ("hot", "huber:1e-3", 0.0019816128, 0.2929, 0.7130, None),
    ("cool_end", "huber:1e-3", 0.0019640864, 0.3004, 0.5802, None),
    ("hot", "huber:1e-4", None, None, None, 0.713),
    ("cool_end", "huber:1e-4", None, None, None, 0.661),
]


@pytest.mark.parametrize(("name", "objective", "value", "alpha", "beta", "a"), ROWS)
def test_gemstones(name, objective, value, alpha, beta, a) -> None:
    table = load_table(GOLDEN / f"gemstones_{name}.csv")
    assert "points-of-one-run" in {notice.code for notice in table.notices}
    result = fit(table, objective=parse_objective(objective))
    law = result.laws_K5[0]
    if value is None:
        assert law[4] / (law[3] + law[4]) == pytest.approx(a, abs=6e-4)
    else:
        assert result.cost == pytest.approx(value, abs=1e-10)
        assert law[3:] == pytest.approx((alpha, beta), abs=6e-5)
    if name == "hot" and value is not None:
        assert law[2] == pytest.approx(2.143, abs=6e-4)


def test_points_of_a_run_are_one_cluster() -> None:
    table = load_table(GOLDEN / "gemstones_hot.csv")
    assert len(table) == 220
    assert len(set(table.cluster_N.tolist())) == 22


def test_width_and_depth() -> None:
    result = fit(load_table(GOLDEN / "gemstones_cool_end.csv"), "width-depth")
    assert set(result.published) == {"A", "G", "B", "E", "alpha", "delta", "beta"}
    assert result.cost < 0.0019640864 * 1.5
