"""Points of one run in a table that does not name its runs."""

from pathlib import Path

import numpy as np
import pytest
from scaling_tables import LAW, write_csv

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.table import RunTable, table_of


def read_at(tokens: np.ndarray) -> RunTable:
    """Six runs of six sizes, read at these fractions of their length."""
    params = np.repeat(np.geomspace(5e7, 5e8, 6), len(tokens))
    tokens = np.tile(tokens, 6)
    return table_of(params, tokens, predict(LAW, params, tokens))


@pytest.mark.parametrize("tokens", [np.linspace(2e8, 4.2e9, 20), np.linspace(1e9, 5e9, 5), np.geomspace(1e8, 1e10, 12)])
def test_readings_of_one_run_are_one_cluster(tmp_path: Path, tokens: np.ndarray) -> None:
    base = read_at(tokens)
    table = load_table(write_csv(tmp_path / "runs.csv", base))
    assert len(set(table.cluster_N.tolist())) == 6
    found = [notice.text for notice in table.notices if notice.code == "one-trajectory"]
    assert found[0].startswith(
        f"{len(tokens)} points at 5e+07 parameters (lines 2 to {len(tokens) + 1}) look like one run"
    )
    assert "few-clusters" in {notice.code for notice in table.notices}
    named = load_table(write_csv(tmp_path / "runs.csv", base, run_id=range(len(base))))
    assert (len(set(named.cluster_N.tolist())), named.notices) == (len(base), ())
    chosen = load_table(write_csv(tmp_path / "runs.csv", base, point=range(len(base))), cluster_column="point")
    assert "one-trajectory" not in {notice.code for notice in chosen.notices}


def test_a_grid_of_runs_is_no_trajectory(tmp_path: Path) -> None:
    table = load_table(write_csv(tmp_path / "runs.csv", read_at(1e9 * 2.0 ** np.arange(5))))
    assert (len(set(table.cluster_N.tolist())), table.notices) == (30, ())
