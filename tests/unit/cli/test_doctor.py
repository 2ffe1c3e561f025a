import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from sisa_scale.cli.doctor import command


def test_command_prints_json_and_its_exit_code_says_failure(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset, tmp_path / "data")
    arguments = [str(recipe), f"data.path={data}", f"run_dir={tmp_path}/run", "--json"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert {finding["status"] for finding in json.loads(done.stdout)} <= {"ok", "warning", "skipped"}
    for shard in data.glob("train-*.tar"):
        shard.write_bytes(b"\0" * shard.stat().st_size)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 1
    failures = [finding["check"] for finding in json.loads(done.stdout) if finding["status"] == "failure"]
    assert failures == ["shards"]
