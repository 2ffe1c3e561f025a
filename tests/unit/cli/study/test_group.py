import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from study_cases import write_study

from sisa_scale.cli.study.group import command
from sisa_scale.errors import ConfigError
from sisa_scale.studies.directory import StudyDirectory


def study(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_plan_prints_what_it_would_make(tmp_path: Path) -> None:
    path = write_study(tmp_path, tmp_path / "none")
    plan = json.loads(study("plan", path, "--json").stdout)
    assert len(plan["trials"]) == 8
    assert plan["cost"]["saved_share"] > 0.2
    assert "save 27% of the FLOPs" in study("plan", path).stdout
    assert not (tmp_path / "study").exists()


def test_plan_beyond_the_limit_is_shown_and_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, tmp_path / "none")
    result = CliRunner().invoke(command, ["plan", str(path), "cost.max_device_hours=0.001"])
    assert isinstance(result.exception, ConfigError)
    assert "sisa-m-2.56K" in result.stdout


def test_slurm_gets_an_array_of_trunks_and_one_of_branches_that_waits(tmp_path: Path, dataset: Path) -> None:
    path = write_study(tmp_path, dataset)
    options = ("--to", "slurm", "--profile", "cpu", "--set", "nodes=1", "--set", "node_local_paths=[]", "--dry-run")
    text = study("submit", path, *options).stdout
    assert text.count("#SBATCH --array=0-3") == 2
    assert text.count("sisa-scale study branch") == 4
    assert f'sisa-scale study branch {tmp_path / "study"} sisa-m-2.56K "$here/recipe-' in text
    assert not (tmp_path / "study").exists()


def test_branches_are_refused_where_pods_do_not_see_their_trunk(tmp_path: Path, dataset: Path) -> None:
    path = write_study(tmp_path, dataset)
    result = CliRunner().invoke(
        command, ["submit", str(path), "--to", "kubernetes", "--profile", "cpu", "--set", "nodes=1", "--dry-run"]
    )
    assert isinstance(result.exception, ConfigError)
    assert "schedule.trunk=false" in str(result.exception)


def test_dry_run_lists_what_is_left(tmp_path: Path, dataset: Path) -> None:
    path = write_study(tmp_path, dataset)
    text = study("submit", path, "--to", "local", "--dry-run").stdout
    assert "8 of 8 trials to run" in text
    assert "sisa-m-2.56K: branch, 10 steps from 8" in text
    with pytest.raises(ConfigError, match=r"Did you mean 'sisa-m-2\.56K'"):
        study("submit", path, "--to", "local", "--dry-run", "--only", "sisa-m-2.5K")


def test_status_of_what_is_no_study(tmp_path: Path) -> None:
    assert StudyDirectory(tmp_path).is_locked is False
    result = CliRunner().invoke(command, ["status", str(tmp_path)])
    assert "plan.json" in str(result.exception)


def test_help_and_plan_import_no_torch() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from sisa_scale.cli.study.group import command\n"
        "for arguments in (['--help'], ['plan', '--help'], ['plan', 'studies/gpu-small', '--json']):\n"
        "    assert CliRunner().invoke(command, arguments).exit_code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
