from pathlib import Path

import pytest
from study_cases import write_study

from sisa_scale.config.study import load_study
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.submit import submit

SBATCH = """#!/bin/bash
[[ $* == *--test-only* ]] && exit
echo "$@" >> {folder}/submitted
echo $((40 + $(wc -l < {folder}/submitted)))
"""


def test_branches_wait_for_the_job_of_their_trunks(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an `sbatch` and a `sinfo` of our own; tests/cluster asks a real Slurm."""
    for name, script in (("sbatch", SBATCH.format(folder=tmp_path)), ("sinfo", "#!/bin/bash\necho cpu 1\n")):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    profile = load_profile("slurm", "cpu", ["nodes=1", "cpus_per_worker=1", "node_local_paths=[]"])
    study, told = load_study(str(write_study(tmp_path, dataset)), ()), list[str]()
    ending = submit(study, profile, only=(), at_once=1, dry_run=False, reporter=Reporter(told.append))
    assert ending == "handed over"
    trunks, branches = (tmp_path / "submitted").read_text().splitlines()
    assert "--dependency" not in trunks
    assert "--dependency=afterany:41" in branches
    jobs = tmp_path / "study" / "jobs"
    assert told[1:] == [
        f"4 runs: job 41, files in {jobs}/0001",
        f"4 branches: job 42, files in {jobs}/0002",
    ]
