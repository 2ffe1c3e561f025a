"""The script of a job under a real Slurm, with stand-ins for Ray and the run: nodes die, people and sites interfere."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from processes import SISA_SCALE
from slurm_cluster import SlurmCluster

from sisa_scale.launching.submission import newest_submission

LONG_SECONDS = 200
pytestmark = pytest.mark.timeout(2 * LONG_SECONDS)
# Ray: the head listens on its port; both live until they are ended.
RAY = """#!/bin/bash
for a in "$@"; do case $a in --node-ip-address=*) ip=${a#*=};; --port=*) port=${a#*=};;
  --temp-dir=*) mkdir -m 777 "${a#*=}";; esac; done
echo "$(hostname) $ip ${GLOO_SOCKET_IFNAME:-} ${NCCL_SOCKET_IFNAME:-} ${SLURM_MEM_PER_CPU:-}" >> NOTES/ray
[[ " $* " != *" --head "* ]] || [ ! -e NOTES/ray-waits ] || exec sleep 1000
[[ " $* " != *" --head "* ]] || [ ! -e NOTES/ray-fails ] || { rm NOTES/ray-fails; exit 1; }
[[ " $* " != *" --head "* ]] || exec /usr/bin/python3 -c "
import socket
with socket.create_server(('$ip', $port)) as server:
    while True:
        server.accept()[0].close()"
exec sleep 1000
"""
# Nodes answer at the port of slurmd; the step of a run is what the file says.
PYTHON = """#!/bin/bash
case $2 in
  *.progress) cat NOTES/progress 2>/dev/null || echo "$SECONDS$RANDOM -" ;;
  *.watch_nodes)
    [ ! -e NOTES/nodes-wait ] || exec sleep 1000
    echo ready
    [ "$6" != 0 ] || exit 0
    silent=0
    while sleep 1; do
      living=0
      for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        [ "$node" = "$(hostname)" ] || timeout 2 bash -c ": < /dev/tcp/$node/6818" 2>/dev/null || continue
        living=$((living + 1))
      done
      if [ $living -ge "$5" ]; then silent=0; else silent=$((silent + 1)); fi
      [ $silent -lt 3 ] || { echo lost; exit; }
    done ;;
esac
"""
# A run: it saves and ends with 75 when it is told to, or ends as the file says.
RUN = """#!/bin/bash
trap 'echo saved; exit 75' USR1
[ ! -e NOTES/deaf ] || trap '' USR1
echo "started on $(hostname)"
echo "$SLURM_JOB_ID ${SLURM_ARRAY_TASK_ID:--} $(stat -c %a "$scratch")" >> NOTES/starts
until [ -e NOTES/end ]; do sleep 0.2 & wait $!; done
exit "$(cat NOTES/end)"
"""
THREE = ("global_batch_tokens=6144", "micro_batch_sequences=1")  # what three workers can divide
Submit = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if slurm_cluster.missing():
        pytest.skip(f"no Slurm here: {slurm_cluster.missing()}")
    with SlurmCluster(num_nodes=3, cpus=1) as cluster:
        yield cluster


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Write the stand-ins; they tell and are told by the files of this folder."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, script in (("ray", RAY), ("python", PYTHON), ("sisa-scale", RUN)):
        path = tmp_path / "venv" / "bin" / name
        path.write_text(script.replace("NOTES", str(folder)))
        path.chmod(0o755)
    return folder


@pytest.fixture
def submit(cluster: SlurmCluster, recipe: Path, notes: Path, tmp_path: Path) -> Iterator[Submit]:
    """Submit a run (or a list of them) whose parts are the stand-ins; returns its directory."""
    profile = tmp_path / "stub.yaml"
    values = {"node_scratch": str(cluster.scratch), "node_local_paths": [], "venv": str(tmp_path / "venv"), "nodes": 1}
    values |= {"cpus_per_worker": 1, "time_limit": "00:20:00"}
    profile.write_text("\n".join(["extends: cpu", *(f"{key}: {json.dumps(value)}" for key, value in values.items())]))

    def run(*arguments: str, what: Path = recipe, run_dir: Path = tmp_path / "run") -> Path:
        own = [] if "--study" in arguments else [f"run_dir={run_dir}"]
        options = ["submit", str(what), "--to", "slurm", "--profile", str(profile), *own, *arguments]
        done = cluster.run(*SISA_SCALE, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return run_dir

    yield run
    (notes / "end").write_text("0")
    cluster.run("scancel", "--user=root")
    wait_for(lambda: not cluster.run("squeue", "--noheader").stdout.strip(), "an empty queue")


def wait_for(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


def starts(notes: Path) -> list[list[str]]:
    path = notes / "starts"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def log(run_dir: Path) -> str:
    return "".join(path.read_text() for path in Path(newest_submission(run_dir).folder).glob("output*.log"))


def follow(cluster: SlurmCluster, run_dir: Path) -> int:
    return cluster.run(*SISA_SCALE, "logs", str(run_dir), "--follow", timeout=LONG_SECONDS).returncode


def state(cluster: SlurmCluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip()


def nodes_of(cluster: SlurmCluster, run_dir: Path) -> list[str]:
    """Return the nodes of the job, the one with the batch shell first."""
    job = newest_submission(run_dir).job_id
    host, names = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%B %N").stdout.split()
    every = cluster.run("scontrol", "show", "hostnames", names).stdout.split()
    return sorted(every, key=lambda name: (name != host, name))


def signal(cluster: SlurmCluster, job: str) -> None:
    """Do what --signal=B:USR1@N does."""
    cluster.run("scancel", "--batch", "--signal=USR1", job)


def test_a_job_that_slurm_does_not_put_back_has_failed(
    cluster: SlurmCluster, submit: Submit, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With modules that read what is not set, a Ray that fails at first, and a banner before Slurm's answers."""
    (tmp_path / ".bash_profile").write_text('module() { local before=$NOT_SET_ANYWHERE; echo "loaded $2"; }\n')
    for name in ("sbatch", "squeue"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "--- Welcome ---"; echo 12 nodes; exec /usr/bin/{name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (notes / "ray-fails").touch()
    run_dir = submit("--set", "modules=[x]")
    job = newest_submission(run_dir).job_id
    wait_for(lambda: starts(notes), lambda: log(run_dir))
    cluster.run("scontrol", "update", f"jobid={job}", "requeue=0")
    signal(cluster, job)
    assert follow(cluster, run_dir) == 1
    assert state(cluster, job).endswith("FAILED")
    assert "loaded x" in log(run_dir)
    assert "submit it again to continue" in log(run_dir)
    # The same for a successor that Slurm does not take.
    run_dir = submit("--set", "when_interrupted=resubmit", run_dir=tmp_path / "other")
    job = newest_submission(run_dir).job_id
    wait_for(lambda: len(starts(notes)) == 2, lambda: log(run_dir))
    cluster.run("scontrol", "update", "partitionname=main", "state=drain")
    try:
        signal(cluster, job)
        assert follow(cluster, run_dir) == 1
    finally:
        cluster.run("scontrol", "update", "partitionname=main", "state=up")
    assert state(cluster, job).endswith("FAILED")
    assert "no successor could be submitted; submit it again to continue" in log(run_dir)


def test_a_job_leaves_and_takes_in_nothing(
    cluster: SlurmCluster, submit: Submit, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted within another job, and ended by a person: the nodes are clean, and nothing is put back."""
    for name, value in {"SLURM_MEM_PER_CPU": "100", "SBATCH_PARTITION": "nowhere", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    folders = [cluster.root / "log" / f"scratch-{node}" for node in cluster.nodes]
    for folder in folders:
        (folder / "sisa-999999").mkdir()  # of a job that was killed
    run_dir = submit("--set", "nodes=3", "--set", "memory_per_node=200M", *THREE)
    token = Path(newest_submission(run_dir).folder) / ".ray-token.999998"
    token.touch()
    wait_for(lambda: starts(notes), lambda: log(run_dir))
    job = newest_submission(run_dir).job_id
    expected = {f"n{i} 10.77.0.{i + 1} eth0 =eth0 " for i in (1, 2, 3)}
    wait_for(lambda: len({line[:2] for line in (notes / "ray").read_text().splitlines()}) == 3, lambda: log(run_dir))
    assert set((notes / "ray").read_text().splitlines()) == expected
    for folder in folders:
        assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [(f"sisa-{job}", 0o700)]
    cluster.run("scancel", job)
    wait_for(lambda: state(cluster, job) == "CANCELLED", lambda: log(run_dir))
    assert len(starts(notes)) == 1
    assert not list(token.parent.glob(".ray-token.*[0-7]"))
    # Slurm may kill a step before it has cleaned its node: then the next job does.
    submit("--set", "nodes=3", "--set", "memory_per_node=200M", *THREE)
    job = newest_submission(run_dir).job_id
    wait_for(lambda: len(starts(notes)) == 2, lambda: log(run_dir))
    assert {path.name for folder in folders for path in folder.iterdir()} == {f"sisa-{job}"}
    cluster.run("scancel", job)
    wait_for(lambda: state(cluster, job) == "CANCELLED", lambda: log(run_dir))


def test_a_warning_is_answered_in_every_phase_and_a_job_without_progress_ends(
    cluster: SlurmCluster, submit: Submit, notes: Path
) -> None:
    (notes / "progress").write_text("0 -\n")
    (notes / "ray-waits").touch()
    (notes / "deaf").touch()
    run_dir = submit("--set", "warning_seconds=2")
    job = newest_submission(run_dir).job_id
    wait_for((notes / "ray").exists, lambda: log(run_dir))
    (notes / "nodes-wait").touch()
    (notes / "ray-waits").unlink()
    signal(cluster, job)  # no Ray yet
    wait_for(lambda: "start 1 on" in log(run_dir), lambda: log(run_dir))
    wait_for(lambda: len((notes / "ray").read_text().splitlines()) == 2, lambda: log(run_dir))
    (notes / "progress").write_text("5 -\n")
    (notes / "nodes-wait").unlink()
    signal(cluster, job)  # nodes are waited for
    # The second warning may arrive when the run has just started; the third is for the life after it.
    wait_for(lambda: "started on" in log(run_dir).partition("start 2 on")[2], lambda: log(run_dir))
    signal(cluster, job)  # to a run that does not hear it
    wait_for(lambda: state(cluster, job) == "FAILED", lambda: log(run_dir))
    assert log(run_dir).count("back into the queue") == 2
    assert "no checkpoint since the last interruption (step 5)" in log(run_dir)


def test_a_run_has_one_job_across_arrays_and_successors(
    cluster: SlurmCluster, submit: Submit, notes: Path, recipe: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.txt"
    study.write_text(f"{recipe} name=ta\n{recipe} name=tb\n")
    submit("--study", "--set", "when_interrupted=resubmit", what=study)
    array, run_dir = newest_submission(tmp_path / "runs" / "study").job_id, tmp_path / "runs" / "ta"

    def texts() -> str:
        return log(tmp_path / "runs" / "study")

    wait_for(lambda: len(starts(notes)) == 2, texts)
    signal(cluster, f"{array}_0")
    wait_for(lambda: len(starts(notes)) == 3, texts)
    successor = starts(notes)[2]
    assert successor[1] == "0"
    again = ["submit", str(recipe), "--to", "slurm", "--profile", str(tmp_path / "stub.yaml"), f"run_dir={run_dir}"]
    done = cluster.run(*SISA_SCALE, *again)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "one job of a run at a time" in done.stderr
    assert cluster.run(*SISA_SCALE, "cancel", str(run_dir)).returncode == 0
    wait_for(lambda: state(cluster, successor[0]) == "FAILED", texts)  # not finished
    assert state(cluster, f"{array}_1") == "RUNNING"
    assert cluster.run(*SISA_SCALE, "cancel", str(tmp_path / "runs" / "study")).returncode == 0
    wait_for(lambda: not cluster.run("squeue", "--noheader").stdout.strip(), texts)
    assert len(starts(notes)) == 3


def test_a_run_outlives_the_death_of_any_node(cluster: SlurmCluster, submit: Submit, notes: Path) -> None:
    run_dir = submit("--set", "nodes=2")
    for number, place in enumerate((1, 0), start=1):
        wait_for(lambda n=number: len(starts(notes)) == n, lambda: log(run_dir))
        dead = nodes_of(cluster, run_dir)[place]
        cluster.crash(dead)
        wait_for(lambda n=number: len(starts(notes)) == n + 1, lambda: log(run_dir))
        cluster.restart(dead)
    (notes / "end").write_text("0")
    assert "too few nodes are left" in log(run_dir)


def test_an_elastic_run_goes_on_with_the_nodes_left_and_outlives_its_first_node(
    cluster: SlurmCluster, submit: Submit, notes: Path
) -> None:
    run_dir = submit("--set", "nodes=3", "min_workers=1", *THREE)
    wait_for(lambda: starts(notes), lambda: log(run_dir))
    first, _, third = nodes_of(cluster, run_dir)
    job = newest_submission(run_dir).job_id
    cluster.crash(third)
    wait_for(
        lambda: "down" in cluster.run("sinfo", "--noheader", f"--nodes={third}", "--format=%T").stdout, "a node down"
    )
    assert state(cluster, job) == "RUNNING"
    assert len(starts(notes)) == 1
    cluster.crash(first)
    wait_for(lambda: state(cluster, job) != "RUNNING", lambda: log(run_dir))
    cluster.restart(first)
    cluster.restart(third)
    wait_for(lambda: len(starts(notes)) == 2, lambda: log(run_dir) + state(cluster, job))
