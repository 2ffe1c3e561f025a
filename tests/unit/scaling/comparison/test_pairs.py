"""Planted effects: paired intervals hold them, a null is called a null, and a seed's variance is found."""

from dataclasses import replace

import numpy as np
import pytest

from sisa_scale.scaling.comparison.pairs import OVERALL, Pairs, compare_pairs
from sisa_scale.scaling.table.table import RunTable, table_of

SIZES, LENGTHS = ("s", "m"), (1e9, 2e9, 4e9)


def world(number: int, effect: float, *, seeds: int = 3, of_data: float = 0.02, of_run: float = 0.005) -> RunTable:
    """Two architectures: what the order of the data does is the same for both, the runs of a trunk share an error."""
    generator = np.random.default_rng(number)
    rows = []
    for k, size in enumerate(SIZES):
        data_SL = of_data * generator.normal(size=(seeds, len(LENGTHS)))
        for name in ("a", "b"):
            trunk_S = of_run * generator.normal(size=seeds)
            for seed in range(seeds):
                for i, tokens in enumerate(LENGTHS):
                    noise = data_SL[seed, i] + trunk_S[seed] + 0.2 * of_run * generator.normal()
                    loss = 3.0 - 0.3 * k - 0.2 * i + (effect if name == "b" else 0.0) + noise
                    rows.append((name, size, str(seed), 1e7 * (k + 1), tokens, loss))
    names, size_N, seed_N, params, tokens_N, losses = (np.array(column) for column in zip(*rows, strict=True))
    texts = {"size": size_N, "seed": seed_N}
    return replace(table_of(params, tokens_N, losses, architecture=names), texts=texts)


def pairs(table: RunTable) -> Pairs:
    found = compare_pairs(table, "a")
    assert found is not None
    return found


@pytest.mark.parametrize(("effect", "seeds"), [(0.0, 2), (0.0, 3), (-0.01, 5)])
def test_intervals_hold_the_planted_effect(effect: float, seeds: int) -> None:
    overall, cells = [], []
    for number in range(200):
        found = pairs(world(number, effect, seeds=seeds))
        (one,) = found.overall
        assert (one.num_cells, len(found.cells)) == (6, 6)
        for kind, rows in ((overall, (one,)), (cells, found.cells)):
            kind += [row.interval is not None and row.interval[0] <= effect <= row.interval[1] for row in rows]
    assert 0.9 <= np.mean(overall) <= 0.985
    assert 0.92 <= np.mean(cells) <= 0.98


def test_a_null_is_called_a_null_and_an_effect_is_found() -> None:
    nulls = [pairs(world(number, 0.0)).overall[0] for number in range(100)]
    assert sum(bool(one.is_null) for one in nulls) >= 90
    said = next(one for one in nulls if one.is_null).sentence("a", 0.95)
    assert "a null, no difference is shown" in said
    effects = [pairs(world(number, -0.05)).overall[0] for number in range(100)]
    assert sum(one.is_null is False for one in effects) >= 95
    said = next(one for one in effects if not one.is_null).sentence("a", 0.95)
    assert said.startswith("b has a lower loss than a on average over 6 sizes and lengths: -0.0")


def test_pairing_takes_out_what_the_order_of_the_data_does() -> None:
    found = pairs(world(0, 0.0, seeds=30))
    assert [one.degrees for one in found.noise] == [174, 174]
    assert found.noise[0].deviation == pytest.approx((0.02**2 + 0.005**2 + 0.001**2) ** 0.5, rel=0.15)
    deviation = np.mean([one.deviation or 0.0 for one in found.cells])
    assert deviation == pytest.approx((2 * (0.005**2 + 0.001**2)) ** 0.5, rel=0.15)


def test_one_seed_has_no_interval() -> None:
    found = pairs(world(0, -0.1, seeds=1))
    assert found.overall[0].interval is None
    assert found.overall[0].cell == (OVERALL, OVERALL)
    assert found.noise == ()
    assert "one seed, so nothing is shown" in found.overall[0].sentence("a", 0.95)


def test_runs_without_a_partner_are_left_out() -> None:
    table = world(0, 0.0)
    is_lost = (table.architecture_N == "b") & (table.texts["seed"] == "2") & (table.texts["size"] == "m")
    found = pairs(table.select(~is_lost))
    assert [len(row.seeds) for row in found.cells] == [3, 3, 3, 2, 2, 2]
    assert (found.overall[0].num_cells, found.overall[0].seeds) == (3, ("0", "1", "2"))
    assert compare_pairs(table.select(table.architecture_N == "a"), "a") is None
    assert compare_pairs(table, "c") is None
