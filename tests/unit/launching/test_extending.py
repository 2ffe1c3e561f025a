"""The example of docs/extending-launcher.md: a launcher from outside the package."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from study_cases import write_study

import sisa_scale
from sisa_scale.config.study import load_study
from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.registry import LAUNCHERS, launcher_for, launcher_of
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.submit import submit as submit_study
from sisa_scale.launching.submission import Submission

ROOT = Path(__file__).parents[3]


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the example beside its profile, and register it for as long as a test lasts."""
    section = re.split("^## ", (ROOT / "docs" / "extending-launcher.md").read_text(), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith("A launcher"))
    (tmp_path / "spool.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    profile = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "mine.yaml").write_text(profile.replace("/shared/spool", str(tmp_path / "spool")))
    (tmp_path / "spool").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LAUNCHERS, "spool", LAUNCHERS["local"])  # restored, whatever the module puts there
    monkeypatch.delitem(sys.modules, "spool", raising=False)
    module: ModuleType = importlib.import_module("spool")
    monkeypatch.delitem(sys.modules, "spool")
    assert LAUNCHERS["spool"].profile is module.SpoolProfile
    return tmp_path / "spool"


def serve(spool: Path, bin_dir: Path) -> None:
    """Do what the service of the example does, once."""
    (script,) = spool.glob("*.waiting")
    running = script.rename(script.with_suffix(".running"))
    done = subprocess.run(["bash", str(running)], check=False, env={"PATH": f"{bin_dir}:/usr/bin:/bin"})
    running.rename(running.with_suffix(".failed" if done.returncode else ".done"))


def test_a_job_is_refused_twice_cancelled_served_and_followed(spool: Path, recipe: Path, tmp_path: Path) -> None:
    def submit() -> Submission:
        handed = sisa_scale.submit(recipe, ["run_dir=run"], to="spool", profile="mine.yaml")
        assert isinstance(handed, Submission)
        return handed

    first = submit()
    launcher = launcher_of(first)
    assert "workers: 2" in (Path(first.folder) / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match=f"job {first.job_id} of spool, which is waiting"):
        submit()
    launcher.cancel(first, at_once=False)
    assert launcher.state(first) == "GONE"
    second = submit()
    assert second.folder.endswith("run/jobs/0002")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sisa-scale").write_text('#!/bin/bash\necho "told: $*"\n')
    (tmp_path / "bin" / "sisa-scale").chmod(0o755)
    serve(spool, tmp_path / "bin")
    assert launcher.state(second) == "done"
    assert launcher.logs(second) == f"told: train {second.folder}/recipe.yaml\n"

    lines: list[str] = []

    class Heard(Reporter):
        def line(self, text: str) -> None:
            lines.append(text)

    assert launcher.follow(second, Heard())
    assert lines == [f"told: train {second.folder}/recipe.yaml"]


def test_profiles_studies_and_checks_know_it(spool: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'workers'"):
        load_profile("spool", "mine.yaml", ["worker=3"])
    with pytest.raises(ConfigError, match="spool has none of its own, or a file of your own"):
        load_profile("spool", None)
    profile = load_profile("spool", "mine.yaml", ["workers=1"])
    (finding,) = launcher_for(profile).check(profile)  # type: ignore[attr-defined]
    assert finding.status == "ok"
    told: list[str] = []
    study = load_study(str(write_study(tmp_path, dataset)), ())
    submit_study(study, profile, only=(), at_once=1, dry_run=True, reporter=Reporter(told.append))
    scripts = [text for text in told if text.startswith("#!/bin/bash")]
    assert len(scripts) == 4
    assert "sisa-m-2.56K is waiting: submit again later" in told


def test_commands_of_a_program_know_it(spool: Path, recipe: Path, tmp_path: Path) -> None:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "spool.py", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = call("submit", recipe, "--to", "spool", "--profile", "mine.yaml", "run_dir=run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sisa-scale cancel run" in done.stdout
    assert len(list(spool.glob("tiny-*.waiting"))) == 1
    done = call("cancel", "run")
    assert done.stdout.endswith(": GONE\n"), done.stdout + done.stderr
    assert not list(spool.iterdir())
