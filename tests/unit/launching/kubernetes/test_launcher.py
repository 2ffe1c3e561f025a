"""What kubectl is asked, with a `kubectl` of our own that notes it and answers from a file."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import yaml

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes.launcher import KubernetesLauncher
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job, Submission, new_folder

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
    monkeypatch.setattr("sisa_scale.launching.kubernetes.launcher._POLL_SECONDS", 0.0)
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


# The objects of a namespace as files, and the verbs that are used on them.
STORE = """#!/usr/bin/python3
import json, pathlib, sys
import yaml
store = pathlib.Path("{folder}/store")
verb, *rest = [word for word in sys.argv[1:] if not word.startswith(("--context", "--namespace"))]
words = [word for word in rest if not word.startswith("--")]
options = dict(word[2:].partition("=")[::2] for word in rest if word.startswith("--"))
chosen = lambda kind: [p for p in sorted(store.glob(kind + ".*")) if all(
    json.loads(p.read_text())["metadata"].get("labels", {{}}).get(key) == value
    for key, value in [options["selector"].split("=")])] if "selector" in options else [
    p for p in [store / (kind + "." + words[1])] if p.exists()]
if verb == "apply":
    for item in yaml.safe_load_all(sys.stdin):
        path = store / (item["kind"].lower() + "." + item["metadata"]["name"])
        item["metadata"]["uid"] = "uid-" + path.name
        path.write_text(json.dumps(item))
elif verb == "patch":
    path = store / (words[0] + "." + words[1])
    item = json.loads(path.read_text())
    item["metadata"] |= json.loads(options["patch"])["metadata"]
    path.write_text(json.dumps(item))
elif verb == "get" and words[0] in ("rayjob", "configmap"):
    found = [json.loads(path.read_text()) for path in chosen(words[0])]
    print(json.dumps({{"items": found}}) if "selector" in options else json.dumps(found[0]) if found else "")
elif verb == "delete":
    for path in chosen(words[0]):
        path.unlink()
        owned = store / path.name.replace("rayjob", "configmap")
        if "ownerReferences" in json.loads(owned.read_text())["metadata"]:
            owned.unlink()
"""


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "kubectl").write_text(STORE.format(folder=tmp_path).replace("/usr/bin/python3", sys.executable))
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def submit(config: RunConfig, name: str, run_dir: str, notes: str | None = None) -> Submission:
    """Submit a run; notes: where this machine keeps the notes of its submissions."""
    own = dataclasses.replace(config, name=name, run_dir=f"/mnt/sisa-scale/{run_dir}")
    folder = new_folder(Path(notes or run_dir))
    return LAUNCHER.plan(Job(own, ()), folder, load_profile("kubernetes", "cpu")).submit(Reporter())  # type: ignore[arg-type]


def set_state(namespace: Path, submission: Submission, state: str) -> None:
    path = namespace / f"rayjob.{submission.job_id}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": {"jobDeploymentStatus": state}}))


def test_runs_of_long_or_foreign_names_are_rayjobs_of_their_own(namespace: Path, config: RunConfig) -> None:
    names = [f"a-study-whose-name-is-long-sisa-152m-{number}.5B" for number in range(8)]
    names += ["\u7814\u7a76", "\u6a21\u578b"]
    for name in names:
        submit(config, name, f"runs/{name}")
    assert len(list(namespace.glob("rayjob.*"))) == len(list(namespace.glob("configmap.*"))) == 10


def test_a_run_is_submitted_again_once_it_has_ended(namespace: Path, config: RunConfig) -> None:
    first = submit(config, "x", "runs/x")
    for state in ("", "Running", "Suspended"):  # the last one may wait in a queue
        set_state(namespace, first, state)
        before = (namespace / f"rayjob.{first.job_id}").read_text()
        with pytest.raises(ConfigError, match="one RayJob of a run at a time"):
            submit(config, "x", "runs/x", "elsewhere")
        assert (namespace / f"rayjob.{first.job_id}").read_text() == before
    set_state(namespace, first, "Failed")
    assert submit(config, "x", "runs/x").job_id == first.job_id
    LAUNCHER.cancel(first, at_once=False)
    assert not list(namespace.iterdir())  # the ConfigMap goes with its RayJob


def test_nothing_of_another_owner_is_touched(
    namespace: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_ada = submit(config, "x", "runs/x")
    monkeypatch.setenv("LOGNAME", "bob")
    with pytest.raises(ConfigError, match=f"RayJob {of_ada.job_id}: found one that is Initializing in /mnt"):
        submit(config, "x", "runs/x", "runs-of-bob/x")  # one directory, one job, whoever owns it
    of_bob = submit(config, "x", "runs/y")
    assert of_bob.job_id != of_ada.job_id
    path = namespace / f"rayjob.{of_bob.job_id}"
    taken = json.loads(path.read_text())
    taken["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "sisa-scale"}
    path.write_text(json.dumps(taken | {"status": {"jobDeploymentStatus": "Complete"}}))
    with pytest.raises(ConfigError, match="It is not touched"):
        submit(config, "x", "runs/y")
    LAUNCHER.cancel(of_bob, at_once=False)
    assert path.exists()


def test_patches_add_what_no_setting_names(config: RunConfig, tmp_path: Path) -> None:
    pod = {
        "metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"}},
        "spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"rdma/ib": 1}}}]},
    }
    whole = {"metadata": {"annotations": {"team": "physics"}}, "spec": {"suspend": None}}
    settings = [f"worker.patch={json.dumps(json.dumps(pod))}", f"patch={json.dumps(json.dumps(whole))}"]
    profile = load_profile("kubernetes", "cpu", settings)
    planned = LAUNCHER.plan(Job(config, ()), tmp_path / "jobs" / "0001", profile)  # type: ignore[arg-type]
    _, job = yaml.safe_load_all(planned.manifest())
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "rdma/ib": 1}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert group["template"]["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "rdma"}
    assert job["metadata"]["annotations"].keys() == {"sisa-scale/owner", "sisa-scale/run-dir", "team"}
    assert "suspend" not in job["spec"]
    assert "patch" not in planned.manifest()


def test_metrics_that_others_can_fetch_are_announced(config: RunConfig, tmp_path: Path) -> None:
    profile = load_profile("kubernetes", "cpu")

    def annotations(**changes: object) -> dict[str, str] | None:
        observation = dataclasses.replace(config.observation, **changes)  # type: ignore[arg-type]
        job = Job(dataclasses.replace(config, observation=observation), ())
        _, ray_job = yaml.safe_load_all(LAUNCHER.plan(job, tmp_path, profile).manifest())  # type: ignore[arg-type]
        (group,) = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        return group["template"].get("metadata", {}).get("annotations")  # type: ignore[no-any-return]

    assert annotations() is None
    assert annotations(metrics_port=9400) is None  # loopback: nobody could fetch them
    assert annotations(metrics_port=9400, metrics_address="0.0.0.0") == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9400",
        "prometheus.io/path": "/metrics",
    }


def test_who_pods_run_as_may_be_left_to_the_cluster(config: RunConfig, tmp_path: Path) -> None:
    profile = load_profile("kubernetes", "cpu", ["user_id=null"])
    assert "securityContext" not in LAUNCHER.plan(Job(config, ()), tmp_path, profile).manifest()  # type: ignore[arg-type]
