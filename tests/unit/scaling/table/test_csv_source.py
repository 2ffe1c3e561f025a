"""Rows behind #: comments, a header, rows that somebody left out, and names of runs."""

from pathlib import Path

import pytest
from scaling_tables import planted, write_csv

from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import RefusalError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


def with_names(path: Path) -> list[str]:
    """A table whose runs are called r0, #1, r2, #3 and so on, in the first column."""
    header, *rows = write_csv(path, planted(0.003)).read_text().splitlines()
    return [f"run_id,{header}", *(f"{'#' if i % 2 else 'r'}{i},{row}" for i, row in enumerate(rows))]


def test_runs_whose_names_begin_with_a_hash_do_not_vanish(path: Path) -> None:
    lines = with_names(path)
    path.write_text("\n".join(lines))
    with pytest.raises(RefusalError, match=r"12 of 25 rows begin with # \(line 3 and 11 more\)") as caught:
        load_table(path)
    assert caught.value.code == "bad-table"
    quoted = [f'"{name}",{rest}' for name, _, rest in (line.partition(",") for line in lines)]
    path.write_text("\n".join(quoted))
    assert len(load_table(path)) == 25
    path.write_text(
        "\n".join([lines[0] + ",excluded", *(f"{line.replace('#', '')},{'x' * ('#' in line)}" for line in lines[1:])])
    )
    assert len(load_table(path)) == 13


def test_rows_that_were_commented_out_are_named(path: Path) -> None:
    lines = write_csv(path, planted(0.003)).read_text().splitlines()
    path.write_text(
        "\n".join(
            ["# of the spring, of 25 runs, all", *lines[:6], "#" + lines[6], "# " + lines[7], *lines[8:], "# end"]
        )
    )
    table = load_table(path)
    assert len(table) == 23
    (notice,) = (one for one in table.notices if one.code == "commented-rows")
    assert notice.text == "2 rows behind # are left out: line 8 and 1 more"


def test_a_header_behind_a_hash_is_one(path: Path) -> None:
    plain = load_table(write_csv(path, planted(0.003)))
    path.write_text("# saved by numpy\n# " + path.read_text())
    assert (load_table(path).losses == plain.losses).all()
