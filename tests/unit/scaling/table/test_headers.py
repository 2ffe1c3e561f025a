"""Names of columns as people have them: guessed and shown, or suggested."""

from pathlib import Path

import numpy as np
import pytest
from scaling_tables import planted, write_csv

from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import parse_columns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


def texts(path: Path, code: str, **options: object) -> list[str]:
    return [notice.text for notice in load_table(path, **options).notices if notice.code == code]


@pytest.mark.parametrize("header", ["N,D,L", "Model Size,train_tokens,val_loss", "n_params,num-tokens,Final Loss"])
def test_usual_names_are_guessed_and_shown(path: Path, header: str) -> None:
    plain = load_table(write_csv(path, planted(0.003)))
    path.write_text(path.read_text().replace("params_scaling,tokens,loss", header))
    (text,) = texts(path, "guessed-columns")
    assert (load_table(path).params == plain.params).all()
    assert texts(path, "guessed-columns", columns=parse_columns(text.removeprefix("--columns "))) == []


def test_two_candidates_are_not_guessed(path: Path) -> None:
    write_csv(path, planted(0.003), val_loss=3.0)
    path.write_text(path.read_text().replace("tokens,loss", "tokens,test_loss"))
    with pytest.raises(RefusalError, match=r"--columns loss=val_loss \(or test_loss\)") as caught:
        load_table(path)
    assert caught.value.code == "missing-column"


def test_a_column_of_outliers_is_suggested(path: Path) -> None:
    marks = np.where(np.arange(25) % 10 == 3, "1", "0")
    write_csv(path, planted(0.003), outlier=marks)
    (text,) = texts(path, "unread-column")
    assert text.startswith("outlier marks 3 of 25 rows")
    found = load_table(path, columns=parse_columns(text.rpartition("--columns ")[2]))
    assert len(found) == 22
    assert [notice.code for notice in found.notices] == ["excluded-rows"]
    assert texts(write_csv(path, planted(0.003), outlier="0"), "unread-column") == []


def test_a_column_of_architectures_is_suggested(path: Path) -> None:
    names = ["t"] * 12 + ["s"] * 13
    write_csv(path, planted(0.003), arch=names)
    (text,) = texts(path, "unread-column")
    assert "arch has 2 values (t, s)" in text
    found = load_table(path, by=text.rpartition("--by ")[2])
    assert (found.architectures, found.notices) == (["t", "s"], ())
    assert texts(write_csv(path, planted(0.003), arch=names, architecture=names), "unread-column") == []


def test_a_column_of_flops_is_suggested(path: Path) -> None:
    base = planted(0.003)
    write_csv(path, base, flops=6 * base.params * base.tokens)
    (text,) = texts(path, "unread-column")
    assert load_table(path, columns=parse_columns(text.rpartition("--columns ")[2])).train_flops is not None
