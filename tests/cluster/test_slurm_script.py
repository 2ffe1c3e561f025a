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
for a in "$@"; do case $a in --node-ip-address=*) ip=${a#*=};; --port=*) port=${a#*=};; esac; done
echo "$(hostname) $ip ${GLOO_SOCKET_IFNAME:-} ${NCCL_SOCKET_IFNAME:-} ${SLURM_MEM_PER_CPU:-}" >> NOTES/ray
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
    echo ready
    [ "$6" != 0 ] || exit 0
    while sleep 1; do
      living=0
      for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        timeout 1 bash -c ": < /dev/tcp/$node/6818" 2>/dev/null && living=$((living + 1))
      done
      [ $living -ge "$5" ] || { echo lost; exit; }
    done ;;
esac
"""
# A run: it saves and ends with 75 when it is told to, or ends as the file says.
RUN = """#!/bin/bash
echo "started on $(hostname)"
echo "$SLURM_JOB_ID ${SLURM_ARRAY_TASK_ID:--} $(stat -c %a "$scratch")" >> NOTES/starts
trap 'echo saved; exit 75' USR1
[ ! -e NOTES/deaf ] || trap '' USR1
until [ -e NOTES/end ]; do sleep 0.2 & wait $!; done
exit "$(cat NOTES/end)"
"""
Submit = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if slurm_cluster.missing():
        pytest.skip(f"no Slurm here: {slurm_cluster.missing()}")
    with SlurmCluster(num_nodes=3, cpus=1, settings={"SlurmdTimeout": "10"}) as cluster:
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
    run_dir = submit(
        "--set", "nodes=3", "workers=3", "min_workers=1", "global_batch_tokens=6144", "micro_batch_sequences=1"
    )
    wait_for(lambda: starts(notes), lambda: log(run_dir))
    first, second, third = nodes_of(cluster, run_dir)
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
    assert not list((cluster.root / "log").glob(f"scratch-{second}/sisa-*.old"))
