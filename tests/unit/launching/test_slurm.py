import json
import subprocess
from pathlib import Path

import pytest
from hostile import HOSTILE

from sisa_scale.config.run import RunConfig
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.slurm import SlurmJob, SlurmLauncher
from sisa_scale.launching.submission import Job, Submission

LAUNCHER = SlurmLauncher()


class Heard(Reporter):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__(lambda text: self.told.append(f"({text})"))

    def line(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "extra",
    [(), ("container.runtime=apptainer", "container.image=/a b.sif"), ("container.runtime=pyxis", "container.image=x")],
)
def test_slurm_scripts_are_bash_and_directives_hold_no_value_of_a_recipe(
    profile: str, extra: tuple[str, ...], config: RunConfig, tmp_path: Path
) -> None:
    loaded = load_profile("slurm", profile, [*extra, f"environment={json.dumps(['A=' + value for value in HOSTILE])}"])
    assert isinstance(loaded, SlurmProfile)
    folder = tmp_path / 'it"s a\n#SBATCH --wrap=$(touch injected)'
    job = SlurmJob("a\n#SBATCH --wrap=x", folder, tmp_path, (Job(config, ("name=$(x)",)),) * 2, loaded)
    script = job.files()["job.sbatch"]
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    directives = [line for line in script.split("\n\n")[0].splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-1%8" in directives
    assert not any("--wrap" in line or " " in line.removeprefix("#SBATCH ") for line in directives)


def test_directives_end_before_the_first_value(config: RunConfig, tmp_path: Path) -> None:
    """Slurm reads directives up to the first command: a later line that looks like one is none."""
    loaded = load_profile("slurm", "cpu")
    assert isinstance(loaded, SlurmProfile)
    script = SlurmJob("x", tmp_path / "a\n#SBATCH --wrap=x", tmp_path, (Job(config, ()),), loaded).files()["job.sbatch"]
    assert script.index("set -o pipefail") < script.index("#SBATCH --wrap")


def test_logs_are_whole_lines_and_name_the_task_of_an_array(tmp_path: Path) -> None:
    one = Submission("slurm", "7", str(tmp_path), {"num_tasks": 1})
    assert LAUNCHER.logs(one) == ""
    (tmp_path / "output.log").write_bytes(b"a\nb\rc\xff\nhalf")
    assert LAUNCHER.logs(one) == "a\nb\rc\ufffd\n"
    (tmp_path / "output-1.log").write_text("second\n")
    assert LAUNCHER.logs(Submission("slurm", "7", str(tmp_path), {"num_tasks": 2})) == "[1] second\n"


@pytest.mark.parametrize(("last", "succeeded"), [("COMPLETED", True), ("FAILED", False)])
def test_following_tells_states_of_the_last_successor_and_every_line(
    last: str, succeeded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `squeue` of our own: the job runs, writes, and is over the next time it is asked after."""
    (tmp_path / "squeue").write_text(
        f"""#!/bin/bash
cd {tmp_path}
[[ $* == *--jobs=9 ]] || exit 1
if [ -e asked ]; then echo "sisa-scale-job {last} None"; else touch asked; echo Welcome; echo "sisa-scale-job RUNNING None"; echo line >> output.log; fi
"""
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("sisa_scale.launching.slurm._POLL_SECONDS", 0.01)
    monkeypatch.setattr("sisa_scale.launching.slurm._STATE_SECONDS", 0.0)
    (tmp_path / "successors").write_text("8;cluster\n9;cluster\n")
    heard = Heard()
    assert LAUNCHER.follow(Submission("slurm", "7", str(tmp_path), {"num_tasks": 1}), heard) is succeeded
    assert heard.told == ["(job 9: RUNNING)", "line", f"(job 9: {last})", f"(job 9: {last})"]
