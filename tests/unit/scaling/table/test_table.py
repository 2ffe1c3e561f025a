"""Tables: tolerant in form, strict in meaning. Every refusal and warning has its code."""

from pathlib import Path

import numpy as np
import pytest
from scaling_tables import LAW, planted, planted_pair, write_csv

from sisa_scale.errors import DataError
from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.identifiability import require
from sisa_scale.scaling.table.notices import REFUSALS, WARNINGS, RefusalError
from sisa_scale.scaling.table.table import table_of

DOCS = Path(__file__).parents[4] / "docs" / "scaling-laws-codes.md"


def refused(path: Path, code: str, **options: object) -> str:
    with pytest.raises(RefusalError) as caught:
        load_table(path, **options)
    assert caught.value.code == code
    assert f"[{code}]" in str(caught.value)
    assert isinstance(caught.value, DataError)
    return str(caught.value)


def codes(path: Path, **options: object) -> set[str]:
    return {notice.code for notice in load_table(path, **options).notices}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


def test_a_good_table_has_no_warnings(path: Path) -> None:
    table = planted(0.003)
    assert (
        codes(
            write_csv(path, table, run_id=range(25), architecture="sisa", train_flops=6 * table.params * table.tokens)
        )
        == set()
    )


def test_order_extra_columns_bom_comments_blank_lines_and_names(path: Path) -> None:
    plain = load_table(write_csv(path, planted()))
    lines = path.read_text().splitlines()
    mixed = ["# runs of the spring", "Loss , note;,TOKENS,Params-Scaling".replace(";", ""), ""]
    for line in lines[1:]:
        params, tokens, loss = line.split(",")
        mixed += [f'{loss} ,"a, b",{tokens},{params}', "# fine", ""]
    path.write_text("\ufeff" + "\r\n".join(mixed))
    other = load_table(path)
    assert (other.params == plain.params).all()
    assert (other.losses == plain.losses).all()
    assert other.lines[0] == 4


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(path: Path, delimiter: str) -> None:
    plain = load_table(write_csv(path, planted()))
    path.write_text(path.read_text().replace(",", delimiter))
    assert (load_table(path).tokens == plain.tokens).all()


def test_columns_can_be_mapped(path: Path) -> None:
    write_csv(path, planted())
    path.write_text(path.read_text().replace("params_scaling,tokens,loss", "Size of it,Data,final loss"))
    text = refused(path, "missing-column")
    assert "size_of_it" in text
    mapped = {"params_scaling": "Size of it", "tokens": "data", "loss": "Final Loss"}
    assert len(load_table(path, columns=mapped)) == 25


def test_empty_optional_columns_are_absent(path: Path) -> None:
    assert load_table(write_csv(path, planted(), train_flops="", seconds="")).seconds is None


@pytest.mark.parametrize("cell", ["nan", "", "inf", "-3.1", "0", "3,1", "50M", "three"])
def test_numbers_must_be_numbers(path: Path, cell: str) -> None:
    write_csv(path, planted())
    lines = path.read_text().splitlines()
    params, tokens, _ = lines[3].split(",")
    lines[3] = f'{params},{tokens},"{cell}"'
    path.write_text("\n".join(lines))
    assert "line 4" in refused(path, "bad-number")


def test_excluded_rows_are_counted(path: Path) -> None:
    losses = planted().losses.copy()
    losses[3] = np.nan
    table = table_of(planted().params, planted().tokens, losses)
    reasons = ["" if np.isfinite(loss) else "diverged" for loss in losses]
    found = load_table(write_csv(path, table, excluded=reasons))
    assert len(found) == 24
    assert {notice.code for notice in found.notices} == {"excluded-rows"}


@pytest.mark.parametrize(
    ("params", "tokens", "loss", "code"),
    [
        (1e-6, 1, 1, "params-unit"),
        (1e-9, 1, 1, "params-unit"),
        (1e-6, 1e-6, 1, "params-unit"),
        (1, 1e-6, 1, "tokens-unit"),
        (1, 1e-9, 1, "tokens-unit"),
    ],
)
def test_units_of_columns(path: Path, params: float, tokens: float, loss: float, code: str) -> None:
    base = planted()
    refused(write_csv(path, table_of(base.params * params, base.tokens * tokens, base.losses * loss)), code)


def test_one_row_in_another_unit(path: Path) -> None:
    base = planted()
    tokens = base.tokens.copy()
    tokens[7] /= 1e9
    assert ":9" in refused(write_csv(path, table_of(base.params, tokens, base.losses)), "tokens-unit")


def test_perplexity_and_bits(path: Path) -> None:
    base = planted()
    refused(write_csv(path, table_of(base.params, base.tokens, np.exp(base.losses))), "loss-unit")
    bits = table_of(base.params, base.tokens, base.losses / np.log(2))
    assert codes(write_csv(path, bits)) == {"loss-unit-suspect"}
    refused(write_csv(path, bits, loss_unit="bits/token"), "loss-unit")
    refused(write_csv(path, bits, perplexity=np.exp(base.losses)), "loss-unit")
    per_byte = table_of(base.params, base.tokens, base.losses * 0.32)
    assert codes(write_csv(path, per_byte)) == {"loss-unit-suspect"}
    assert codes(write_csv(path, per_byte, loss_unit="bits/byte", tokenizer=["a", "b"] * 12 + ["a"])) == set()


def test_a_run_that_diverged_is_named(path: Path) -> None:
    base = planted()
    losses = base.losses.copy()
    row = int(np.argmax(base.params * base.tokens))
    is_less = (base.params <= base.params[row]) & (base.tokens <= base.tokens[row])
    best_elsewhere = np.delete(losses, row)[np.delete(is_less, row)].min()
    losses[row] = 1.01 * best_elsewhere
    assert "loss-rises" not in codes(write_csv(path, table_of(base.params, base.tokens, losses)))
    losses[row] = 1.3 * best_elsewhere
    (notice,) = load_table(write_csv(path, table_of(base.params, base.tokens, losses))).notices
    assert notice.code == "loss-rises"
    assert (
        f"1 runs ended over 2% above one with no more parameters and tokens, by up to 30% (line {row + 2}"
        in notice.text
    )


def test_flops_in_another_unit(path: Path) -> None:
    base = planted()
    refused(write_csv(path, base, train_flops=6e-18 * base.params * base.tokens), "flops-unit")
    assert codes(write_csv(path, base, train_flops=50 * base.params * base.tokens)) == {"flops-suspect"}


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ("tokenizer", "mixed-tokenizers"),
        ("corpus", "mixed-corpora"),
        ("eval_set", "mixed-evaluation"),
        ("loss_kind", "mixed-evaluation"),
        ("params_convention", "mixed-conventions"),
    ],
)
def test_mixtures(path: Path, column: str, code: str) -> None:
    values = ["one"] * 12 + ["two"] * 13
    refused(write_csv(path, planted(), **{column: values}), code)
    if column == "corpus":
        assert load_table(path, by="corpus").architectures == ["one", "two"]


def test_mixed_tokenizers_compare_in_bits_per_byte(path: Path) -> None:
    base = planted()
    write_csv(path, base, tokenizer=["a", "b"] * 12 + ["a"], bits_per_byte=base.losses * 0.32)
    refused(path, "mixed-tokenizers")
    assert len(load_table(path, columns={"loss": "bits_per_byte"})) == 25


def test_decay(path: Path) -> None:
    refused(write_csv(path, planted(), is_decayed=["true"] * 20 + ["false"] * 5), "mixed-decay")
    assert codes(write_csv(path, planted(), is_decayed="no")) == {"undecayed"}
    assert codes(write_csv(path, planted(), is_decayed="True")) == set()
    refused(write_csv(path, planted(), is_decayed="perhaps"), "bad-number")


def test_duplicates(path: Path) -> None:
    base = planted(0.003)
    twice = base.select(np.r_[np.arange(25), [4]])
    assert "line 6" in refused(write_csv(path, twice, run_id=[*range(25), 4]), "duplicated-runs")
    found = load_table(write_csv(path, twice))
    assert {notice.code for notice in found.notices} == {"duplicated-rows"}
    assert len(set(found.cluster_N.tolist())) == 25
    assert len(load_table(write_csv(path, twice, run_id=[*range(25), 4], seed=[*[0] * 25, 1]))) == 26
    seeds = table_of(twice.params, twice.tokens, np.r_[base.losses, base.losses[4] * 1.001])
    assert codes(write_csv(path, seeds)) == set()


def test_a_table_twice_has_no_narrower_interval(path: Path) -> None:
    from sisa_scale.scaling.fit.bootstrap import bootstrap

    base = planted(0.005, seed=1)
    once = bootstrap(fit(load_table(write_csv(path, base))), 400).laws_BK5[:, 0, 3].std()
    doubled = load_table(write_csv(path, base.select(np.tile(np.arange(25), 2))))
    assert bootstrap(fit(doubled), 400).laws_BK5[:, 0, 3].std() == pytest.approx(once, rel=0.15)


def test_other_warnings(path: Path) -> None:
    base = planted()
    assert codes(write_csv(path, base, tokens_unique=base.tokens / 9)) == {"repeated-data"}
    assert codes(write_csv(path, base, params_total=2 * base.params, params_nonembedding=base.params)) == {
        "embedding-heavy"
    }
    assert codes(write_csv(path, base, run_id=np.repeat(range(5), 5))) == {"points-of-one-run", "few-clusters"}
    assert "few-clusters" in codes(write_csv(path, base, trunk_id=np.repeat(range(5), 5)))
    columns = {"architecture": ["t"] * 12 + ["s"] * 13, "pair": np.arange(25) % 12 // 2}
    assert codes(write_csv(path, base, **columns, trunk_id=np.arange(25) // 2)) == {"few-clusters"}
    found = load_table(write_csv(path, base, **columns), cluster_column="pair").notices
    assert [notice.text for notice in found] == ["6 trunks for the 12 points of t", "6 trunks for the 13 points of s"]
    wild = table_of(base.params, base.tokens * 200, base.losses)
    assert "params-unit-suspect" in codes(write_csv(path, wild))


@pytest.mark.parametrize("rows", [1, 2, 4, 6])
def test_few_runs_are_refused(rows: int) -> None:
    with pytest.raises(RefusalError) as caught:
        fit(planted().select(np.arange(rows) * 4))
    assert caught.value.code == "too-few-runs"


def test_two_sizes_are_too_few() -> None:
    params, tokens = np.repeat([1e8, 2e8], 8), np.tile(np.geomspace(1e9, 1e11, 8), 2)
    with pytest.raises(RefusalError, match="2 sizes"):
        fit(table_of(params, tokens, predict(LAW, params, tokens)))


def test_ten_runs_are_named_few() -> None:
    result = fit(planted().select(np.array([0, 2, 4, 6, 9, 11, 14, 17, 20, 24])))
    assert "few-runs" in {notice.code for notice in result.notices}


def test_several_architectures_need_a_form_for_them() -> None:
    with pytest.raises(RefusalError) as caught:
        fit(planted_pair(1.2, 1.0))
    assert caught.value.code == "mixed-architectures"
    require(fit(planted_pair(1.2, 1.0), "shared"))


def test_an_outlier_is_named() -> None:
    base = planted(0.001)
    losses = base.losses.copy()
    losses[6] *= 1.2
    result = fit(table_of(base.params, base.tokens, losses))
    assert any(notice.code == "outliers" and "line 6 (+2" in notice.text for notice in result.notices)


@pytest.mark.parametrize("text", ["", "params_scaling,tokens,loss\n", "a,a\n1,2\n", "a,b\n1,2,3\n"])
def test_broken_files(path: Path, text: str) -> None:
    path.write_text(text)
    refused(path, "bad-table")


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.csv", "bad-table")


def test_every_code_is_documented() -> None:
    text = DOCS.read_text()
    assert [code for code in (*REFUSALS, *WARNINGS) if f"`{code}`" not in text] == []
