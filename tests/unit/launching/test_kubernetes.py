"""What kubectl is asked, with a `kubectl` of our own that notes it and answers from a file."""

import json
from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes import KubernetesLauncher
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Submission

LAUNCHER = KubernetesLauncher()
NOTE = Submission("kubernetes", "tiny", "folder", {"context": "here", "namespace": "lab"})
KUBECTL = """#!/bin/bash
cd {folder}
echo "$@" >> asked
case "$*" in
  *logs*) cat logs ;;
  *rayjob*json*) head -1 answers; if [ $(wc -l < answers) -gt 1 ]; then sed -i 1d answers; fi ;;
  *secret*) [ -e secret ] || {{ echo "secret not found" >&2; exit 1; }} ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kubectl").write_text(KUBECTL.format(folder=tmp_path))
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "logs").write_text("step 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def answer(cluster: Path, *states: tuple[str, str]) -> None:
    jobs = [{"status": {"jobDeploymentStatus": deployment, "jobStatus": job}} for deployment, job in states]
    (cluster / "answers").write_text("".join(f"{json.dumps(job)}\n" for job in jobs) or "\n")


@pytest.mark.parametrize(
    ("states", "expected", "is_over"),
    [
        ([], "GONE", True),
        ([("", "")], "Initializing", False),
        ([("Running", "PENDING")], "Running PENDING", False),
        ([("Complete", "SUCCEEDED")], "Complete SUCCEEDED", True),
        ([("Suspended", "")], "Suspended", False),
    ],
)
def test_states_are_those_of_kuberay(
    cluster: Path, states: list[tuple[str, str]], expected: str, is_over: bool
) -> None:
    answer(cluster, *states)
    assert LAUNCHER.state(NOTE) == expected
    assert LAUNCHER.is_over(expected) is is_over
    assert (cluster / "asked").read_text().startswith("--context=here --namespace=lab get rayjob tiny ")


@pytest.mark.parametrize(("last", "succeeded"), [("Complete", True), ("Failed", False)])
def test_following_tells_states_and_lines_once(
    last: str, succeeded: bool, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sisa_scale.launching.kubernetes._POLL_SECONDS", 0.0)
    answer(cluster, ("Initializing", ""), ("Running", "RUNNING"), ("Running", "RUNNING"), (last, ""))
    lines: list[str] = []

    class Heard(Reporter):
        def line(self, text: str) -> None:
            lines.append(text)

    assert LAUNCHER.follow(NOTE, Heard()) is succeeded
    jobs = [f"RayJob tiny: {state}" for state in ("Initializing", "Running RUNNING", last)]
    assert lines == [*jobs[:2], "step 1", jobs[2]]


def test_ending_at_once_also_ends_the_pods(cluster: Path) -> None:
    LAUNCHER.cancel(NOTE, at_once=False)
    asked = (cluster / "asked").read_text().splitlines()
    assert len(asked) == 1 and " delete rayjob tiny " in asked[0]
    LAUNCHER.cancel(NOTE, at_once=True)
    assert "--force --grace-period=0" in (cluster / "asked").read_text().splitlines()[-1]


def test_checks_ask_for_what_the_namespace_lacks(cluster: Path) -> None:
    profile = load_profile("kubernetes", "cpu", ["secrets=[wandb]"])
    with pytest.raises(ConfigError, match=r"secret not found.*remove it from secrets"):
        list(LAUNCHER.check(profile))  # type: ignore[arg-type]
    (cluster / "secret").touch()
    (finding,) = LAUNCHER.check(profile)  # type: ignore[arg-type]
    assert finding.status == "ok"
    assert "get crd rayjobs.ray.io" in (cluster / "asked").read_text()
