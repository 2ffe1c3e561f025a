"""Numbers as people write them: every refusal says what to write, and that is read."""

from pathlib import Path

import pytest
from scaling_tables import planted, write_csv

from sisa_scale.scaling.table.cells import plain_number
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import RefusalError


@pytest.mark.parametrize(
    ("cell", "is_count", "plain"),
    [
        ("1,300,000", True, "1300000"),
        ("1.300.000", True, "1300000"),
        ("1 300 000", True, "1300000"),
        ("1'300'000", True, "1300000"),
        ("1,300", True, "1300"),
        ("20.1M", True, "20100000"),
        ("8 B", True, "8000000000"),
        ("1.5e3", True, None),
        ("1.3x10^9", True, "1.3e9"),
        ("3,141", False, "3.141"),
        ("3,1", False, "3.1"),
        ("2,5e9", True, "2.5e9"),
        ("three", True, None),
        ("1.2.3M", True, None),
        ("-3", False, None),
    ],
)
def test_what_to_write_instead(cell: str, is_count: bool, plain: str | None) -> None:
    assert plain_number(cell, is_count=is_count) == plain


@pytest.mark.parametrize(("column", "cell"), [(0, "20,050,076"), (0, "20.1M"), (2, "3,69761"), (1, "8.3B")])
def test_following_the_remedy_works(tmp_path: Path, column: int, cell: str) -> None:
    path = write_csv(tmp_path / "runs.csv", planted(0.003))
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[column] = f'"{cell}"'
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(RefusalError, match="in line 2") as caught:
        load_table(path)
    remedy = caught.value.problems[0].remedy
    assert remedy.endswith(f"for {cell}.")
    cells[column] = remedy.removeprefix("Write ").split()[0]
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    assert len(load_table(path)) == 25


def test_decimal_commas_of_a_spreadsheet(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "runs.csv", planted(0.003))
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    with pytest.raises(RefusalError, match=r"Write \d+\.\d+ for \d+,\d+") as caught:
        load_table(path)
    assert caught.value.code == "bad-number"


def test_separators_that_split_a_row(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "runs.csv", planted(0.003))
    lines = path.read_text().splitlines()
    lines[1] = "20,050,076,8312520411,3.69"
    path.write_text("\n".join(lines))
    with pytest.raises(RefusalError, match="thousands without separators"):
        load_table(path)


def test_standard_errors_may_be_missing_and_not_wrong(tmp_path: Path) -> None:
    errors = [0.01] * 24 + [""]
    table = load_table(write_csv(tmp_path / "runs.csv", planted(0.003), loss_se=errors))
    assert table.numbers["loss_se"][0] == 0.01
    assert table.numbers["loss_se"][24] != table.numbers["loss_se"][24]
    assert "loss_se" not in load_table(write_csv(tmp_path / "none.csv", planted(0.003), loss_se="")).numbers
    other = write_csv(tmp_path / "bits.csv", planted(0.003), loss_se=errors, bits_per_byte=1.0)
    assert "loss_se" not in load_table(other, columns={"loss": "bits_per_byte"}).numbers
    with pytest.raises(RefusalError, match="bad-number"):
        load_table(write_csv(tmp_path / "bad.csv", planted(0.003), loss_se=-1))
