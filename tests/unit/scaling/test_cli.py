"""The commands as a user calls them: tables, JSON, exit codes, files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scaling_tables import planted, planted_pair, write_csv

from sisa_scale.cli.main import cli
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import RunTable, table_of


def call(*arguments: object) -> dict:
    """Run a command with --json and few resamples."""
    words = [str(word) for word in arguments]
    quick = [] if words[0] == "design" or words[:2] == ["forecast", "score"] else ["--resamples", "200"]
    result = CliRunner().invoke(cli, ["laws", *words, "--json", *quick], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert {"parameters", "objective", "intervals", "diagnostics"} <= set(value)
    return value


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "runs.csv", planted(0.003))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    table: RunTable = planted_pair(1.3, 1.1, noise=0.003)
    flops = table.params * table.tokens * 6
    return write_csv(tmp_path / "pair.csv", table, architecture=table.architecture_N, train_flops=flops,
                     seconds=flops / 1e14)  # fmt: skip


def test_fit(runs: Path, tmp_path: Path) -> None:
    value = call("fit", runs, "-o", tmp_path / "fit.json")
    assert set(value["parameters"]) == {"A", "B", "E", "alpha", "beta"}
    for name in ("A", "B", "E", "alpha", "beta"):
        low, high = value["intervals"][name]
        assert low < value["parameters"][name] < high
    assert value["objective"] > 0
    assert value["diagnostics"]["identifiability"]["condition"] < 100
    assert json.loads((tmp_path / "fit.json").read_text()) == value
    draws = np.genfromtxt(tmp_path / "fit.draws.csv", delimiter=",", names=True)
    low, high = np.percentile(draws["alpha"], [2.5, 97.5])
    assert value["intervals"]["alpha"][0] <= low < high <= value["intervals"]["alpha"][1]
    beside = json.loads((tmp_path / "fit.covariance.json").read_text())
    assert beside["parameters"] == ["log A", "log B", "log E", "alpha", "beta"]
    assert np.sqrt(beside["draws"][3][3]) == pytest.approx(np.std(draws["alpha"], ddof=1), rel=1e-6)
    errors = value["diagnostics"]["identifiability"]["errors"]
    assert np.sqrt(np.diag(beside["curvature"])) == pytest.approx(list(errors.values()), rel=1e-4)
    assert call("fit", runs, "--interval", "bca")["diagnostics"]["interval_method"] == "bca"


def test_the_same_table_gives_the_same_numbers(runs: Path) -> None:
    assert call("fit", runs) == call("fit", runs)
    assert call("fit", runs)["intervals"] != call("fit", runs, "--seed", 1)["intervals"]


def test_isoflop_optimal_compare_design(runs: Path, pair: Path) -> None:
    found = call("isoflop", runs)["isoflop"]
    assert found["exponent"] == pytest.approx(0.513, abs=0.03)
    assert len(found["budgets"]) == 5
    (one,) = call("optimal", runs, "--budget", "1e21")["optimal"]
    assert one["params_interval"][0] < one["params_scaling"] < one["params_interval"][1]
    assert one["params_scaling"] * one["tokens"] * 6 == pytest.approx(1e21)
    value = call("compare", pair, "--reference", "base", "--cost", "flops,seconds", "--at-loss", "2.7")
    assert value["comparison"]["efficiency"]["better"]["rho_N"] == pytest.approx(1.3, abs=0.08)
    assert [row["cost"] for row in value["comparison"]["multipliers"]] == ["flops", "seconds"]
    designs = call("design")["designs"]
    assert designs[-1]["error_of_a"] is None
    assert designs[0]["error_of_a"] < 0.02


def test_shapes_with_exact_flops(runs: Path, tmp_path: Path) -> None:
    shapes = tmp_path / "shapes.csv"
    shapes.write_text("name,params_scaling,train_flops_per_token\nsmall,1e8,7e8\nmiddle,1e9,6.5e9\nlarge,1e11,6.1e11\n")
    value = call("optimal", runs, "--budget", "1e20", "--shapes", shapes, "--shapes", "sisa/152m")
    ranked = value["shapes"]["1e+20"]
    assert ranked[0]["name"] == "middle"
    assert ranked[-1]["name"] == "large"
    assert sum(row["share_best"] for row in ranked) == pytest.approx(1)
    assert all(row["train_flops"] == pytest.approx(1e20) for row in ranked)


def test_forecast(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "forecast.json"
    value = call("forecast", "register", runs, "--params", "4e9", "--tokens", "8e10", "-o", out)
    assert value["forecast"]["predictions"][0]["architecture"] == "all"
    later = write_csv(tmp_path / "later.csv", table_of([4e9], [8e10], [value["forecast"]["predictions"][0]["loss"]]))
    assert call("forecast", "score", out, later)["diagnostics"]["num_inside"] == 1


def test_tables_for_people(runs: Path, pair: Path) -> None:
    for words in (
        ["fit", runs],
        ["isoflop", runs],
        ["optimal", runs, "--budget", "1e21"],
        ["compare", pair],
        ["design"],
    ):
        quick = [] if words == ["design"] else ["--resamples", "200"]
        result = CliRunner().invoke(cli, ["laws", *map(str, words), *quick], catch_exceptions=False)
        assert result.exit_code == 0
        assert len(result.output.splitlines()) > 5


def test_a_refusal_is_json_and_an_error(tmp_path: Path) -> None:
    params = np.repeat(np.geomspace(2e7, 1e9, 8), 2)
    losses = planted(0.002).losses[:16]
    path = write_csv(tmp_path / "ray.csv", table_of(params, 20 * params, losses))
    result = CliRunner().invoke(cli, ["laws", "fit", str(path), "--json"])
    assert isinstance(result.exception, RefusalError)
    value = json.loads(result.stdout)
    assert value["parameters"] is None
    assert value["intervals"] is None
    assert value["diagnostics"]["refused"][0]["code"] == "fixed-tokens-per-parameter"
    finished = subprocess.run(
        [sys.executable, "-m", "sisa_scale.cli.main", "laws", "fit", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 3
    assert "fixed-tokens-per-parameter" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("form", ["gamma", "farseer", "compute"])
def test_other_forms_warn(runs: Path, form: str) -> None:
    codes = {warning["code"] for warning in call("fit", runs, "--form", form)["diagnostics"]["warnings"]}
    assert "form-not-comparable" in codes


def test_report(pair: Path, tmp_path: Path) -> None:
    value = call("report", pair, "-o", tmp_path / "one")
    assert value["verdicts"]
    assert value["not_claimed"]
    page = (tmp_path / "one" / "report.html").read_text()
    assert "http" not in re.sub(r'xmlns[^"]*"[^"]*"', "", page)
    figures = sorted(path.name for path in (tmp_path / "one" / "figures").iterdir())
    names = {"loss_over_compute", "multiplier", "isoflop", "allocation", "surface", "forest", "exponents", "residuals",
             "leave_largest_out", "sensitivity", "design_map"}  # fmt: skip
    assert figures == sorted(f"{name}.{ending}" for name in names for ending in ("csv", "pdf", "svg"))
    for name in names:
        assert f"figures/{name}.csv" in page and f"figures/{name}.pdf" in page
        assert (tmp_path / "one" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert len((tmp_path / "one" / "figures" / f"{name}.csv").read_text().splitlines()) > 3
        assert 'xmlns="http://www.w3.org/2000/svg"' in (tmp_path / "one" / "figures" / f"{name}.svg").read_text()
    assert "FLOPs of base over FLOPs of better for the same loss: 1." in page
    runs = (tmp_path / "one" / "runs.csv").read_text().splitlines()
    assert runs[0] == "line,architecture,params_scaling,tokens,train_flops,loss,loss_se,law,over_law_percent"
    assert len(runs) == 51 and "the spread of the runs around the law" in page
    draws = (tmp_path / "one" / "fit.draws.csv").read_text().splitlines()
    assert draws[0].startswith("resample,is_good,A[base],B[base],E[base]") and len(draws) == 201
    call("report", pair, "-o", tmp_path / "two")
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_a_refused_table_gets_a_page_with_the_reason(tmp_path: Path) -> None:
    params = np.repeat(np.geomspace(2e7, 1e9, 8), 2)
    path = write_csv(tmp_path / "ray.csv", table_of(params, 20 * params, planted(0.002).losses[:16]))
    value = call("report", path, "-o", tmp_path / "out")
    assert value["parameters"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "fixed-tokens-per-parameter" in page
    assert "loss_over_compute" in page


def test_text_of_a_table_is_escaped(tmp_path: Path) -> None:
    table = planted_pair(1.3, 1.1, noise=0.003)
    names = np.where(table.architecture_N == "base", "<script>x</script>", "$b_$")
    path = write_csv(tmp_path / "pair.csv", table, architecture=names)
    call("report", path, "-o", tmp_path / "out")
    assert "<script>x" not in (tmp_path / "out" / "report.html").read_text()


def test_no_torch_no_ray_no_matplotlib_where_not_needed(runs: Path) -> None:
    program = (
        "import sys; from sisa_scale.cli.main import cli\n"
        f"cli.main(['laws', 'fit', {str(runs)!r}, '--resamples', '100', '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'matplotlib', 'scipy', 'pandas', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_report_needs_no_torch(runs: Path, tmp_path: Path) -> None:
    words = ["laws", "report", str(runs), "-o", str(tmp_path / "r"), "--resamples", "100"]
    program = (
        f"import sys; from sisa_scale.cli.main import cli\ncli.main({words!r}, standalone_mode=False)\n"
        "assert not {'torch', 'ray', 'deepspeed', 'scipy'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
