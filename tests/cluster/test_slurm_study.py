"""A study on a real Slurm: trunks as one array, branches as another that waits for it."""

import json
import sys
import time
from pathlib import Path

import pytest
from processes import SISA_SCALE
from slurm_cluster import SlurmCluster
from study_cases import STUDY, write_study

LONG_SECONDS = 500  # for a machine with much else to do
pytestmark = pytest.mark.timeout(2 * LONG_SECONDS)
ONE_TRUNK = STUDY.replace("  m: {{d_model: 32, num_layers: 1, num_heads: 2, d_ff: 96}}\n", "")
ONE_TRUNK = ONE_TRUNK.replace("  transformer: {{overrides: [model.kind=transformer]}}\n", "")
ONE_TRUNK = ONE_TRUNK.replace("reference: transformer", "reference: sisa")


def test_branches_follow_their_trunks(slurm: SlurmCluster, tmp_path: Path, dataset: Path) -> None:
    profile = tmp_path / "simulated.yaml"
    settings = {"node_scratch": str(slurm.scratch), "node_local_paths": [], "venv": sys.prefix, "nodes": 1}
    settings |= {"cpus_per_worker": 1, "time_limit": "00:20:00", "object_store_bytes": 90_000_000}
    profile.write_text("\n".join(["extends: cpu", *(f"{key}: {json.dumps(value)}" for key, value in settings.items())]))
    study = write_study(tmp_path, dataset, ONE_TRUNK)
    options = ["study", "submit", str(study), "--to", "slurm", "--profile", str(profile)]
    done = slurm.run(*SISA_SCALE, *options, cwd=tmp_path, timeout=LONG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        assert "Dependency" in slurm.run("squeue", "--noheader", "--format=%r").stdout
        deadline = time.monotonic() + LONG_SECONDS
        while slurm.run("squeue", "--noheader").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        slurm.run("scancel", "--user=root")
    status = slurm.run(*SISA_SCALE, "study", "status", str(tmp_path / "study"), "--json").stdout
    logs = "".join(path.read_text() for path in tmp_path.glob("study/jobs/*/output*.log"))
    found = {row["name"]: (row["state"], row["step"]) for row in json.loads(status)}
    assert found == {"sisa-s-5.12K": ("finished", 20), "sisa-s-2.56K": ("finished", 10)}, logs[-6000:]
