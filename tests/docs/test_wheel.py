"""A wheel of the package works outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_brings_recipes_and_profiles(tmp_path: Path) -> None:
    def run(*words: str | Path, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", ROOT, "--wheel-dir", tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    run(*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    command = ("-m", "sisa_scale.cli.main")
    installed = {"PYTHONPATH": str(tmp_path / "site")}
    assert run("-c", "import sisa_scale; print(sisa_scale.__file__)", **installed).startswith(str(tmp_path))
    assert "normalize_importance: true" in run(*command, "config", "show", "sisa/152m", **installed)
    listed = run(
        "-c", "from sisa_scale.launching.profiles.load import shipped_profiles as s; print(*s('slurm'))", **installed
    )
    assert listed.split() == ["cpu", "gpu"]
    assert "gpt-neox" in run(*command, "data", "fetch", **installed)
    completion = run(
        "-c", "from sisa_scale.cli.main import main; main()", _SISA_SCALE_COMPLETE="bash_source", **installed
    )
    assert "complete" in completion
    asked = {"COMP_WORDS": "sisa-scale res", "COMP_CWORD": "1", "_SISA_SCALE_COMPLETE": "bash_complete"}
    assert run("-c", "from sisa_scale.cli.main import main; main()", **asked, **installed) == "plain,resume\n"
