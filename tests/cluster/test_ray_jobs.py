"""A real Ray cluster with its job server and a token: submit, lose the client, follow again, stop."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from processes import SISA_SCALE, finish, metrics, run_command, start_command, start_workers

STEPS = 40
OVERRIDES = [f"total={STEPS} steps", "checkpoint.every_steps=30", "evaluation.tasks=[]"]
Trace = list[tuple[int, float, str]]
pytestmark = pytest.mark.timeout(1500)  # for a machine with much else to do; alone each takes a minute


@dataclass(frozen=True)
class RayCluster:
    address: str
    token_file: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head with a dashboard on the loopback, in a process group that is ended as a whole."""
    root = tmp_path_factory.mktemp("ray")
    token = root / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    scratch = Path(f"/tmp/sisa-test-{os.getpid()}")  # the paths of sockets are short
    port, dashboard = free_port(), free_port()
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    ray += ["--num-cpus=2", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={scratch}"]
    ray += [
        "--object-store-memory=90000000",
        f"--ray-client-server-port={free_port()}",
        "--node-ip-address=127.0.0.1",
        "--disable-usage-stats",
    ]
    ray += [f"--dashboard-agent-listen-port={free_port()}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (root / "ray.log").open("w") as log:
        head = subprocess.Popen(ray, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and head.poll() is None, (root / "ray.log").read_text()
                time.sleep(0.2)
        yield RayCluster(f"http://127.0.0.1:{dashboard}", token)
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # on a signal to end, `ray start` takes half a minute
        head.wait(timeout=60)
        clear_away(scratch)


def clear_away(scratch: Path) -> None:
    """End what is left of the cluster and remove its folder, into which a dying process may still write."""
    deadline = time.monotonic() + 30
    while scratch.exists():
        for process in Path("/proc").glob("[0-9]*"):
            if belongs_to(process, str(scratch)):
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)
        assert time.monotonic() < deadline, f"{scratch} cannot be removed"
        time.sleep(0.1)


def belongs_to(process: Path, scratch: str) -> bool:
    """Whether a process is one of this cluster: its folder stands in its command line."""
    try:
        return process.stat().st_uid == os.getuid() and scratch.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def submit(ray_cluster: RayCluster, recipe: Path) -> list[str]:
    options = ["submit", str(recipe), "--to", "ray", "--address", ray_cluster.address]
    options += ["--set", f"token_file={ray_cluster.token_file}", "--set", f"venv={sys.prefix}"]
    return [*options, "--set", "device=cpu", *OVERRIDES]


def trace(run_dir: Path) -> Trace:
    return [(line["step"], line["loss"], line["stream_digest"]) for line in metrics(run_dir)]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def has_step(run_dir: Path, step: int) -> Callable[[], bool]:
    path = run_dir / "metrics.jsonl"
    return lambda: path.exists() and len(path.read_text().splitlines()) >= step


def run_as_pods_would(ray_cluster: RayCluster, recipe: Path, dataset: Path, root: Path) -> Path:
    """Run what `submit --to kubernetes` applies, as KubeRay does: the entrypoint as a job of Ray, its files mounted."""
    pods = {"nodes": 1, "cpus_per_worker": 1, "workers_per_node": 2, "storage.mount_path": root.parent}
    sets = [word for key, value in pods.items() for word in ("--set", f"{key}={value}")]
    target = ["--to", "kubernetes", "--profile", "cpu", "--dry-run", *sets]
    code, output = run_command("submit", recipe, *target, f"run_dir={root}/pods", f"data.path={dataset}", *OVERRIDES)
    assert code == 0, output
    documents = [each for each in yaml.safe_load_all(output) if each]
    config_map, job = (next(d for d in documents if d["kind"] == kind) for kind in ("ConfigMap", "RayJob"))
    (root / "mounted").mkdir()
    for name, text in config_map["data"].items():
        (root / "mounted" / name).write_text(text)
    entrypoint = job["spec"]["entrypoint"].replace("/etc/sisa-scale", f"{root}/mounted")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ray = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", ray_cluster.address, "--"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ray_cluster.token_file)}
    done = subprocess.run(
        [*ray, "env", f"PATH={path}", *entrypoint.split()], env={**os.environ, **token}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "pods"


def test_run_survives_its_client_and_equals_those_of_other_targets(
    submit: list[str], ray_cluster: RayCluster, recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    client = start_command(*submit, f"run_dir={tmp_path}/far", "--follow")
    wait_for(has_step(tmp_path / "far", 1), "the first step")
    os.killpg(client.pid, signal.SIGKILL)
    finish(client)
    code, output = run_command("logs", tmp_path / "far", "--follow")
    assert code == 0, output
    assert "SUCCEEDED" in output
    assert f"step {STEPS}/{STEPS}" in output
    start_workers(2, [("train", recipe, [f"run_dir={tmp_path}/near", *OVERRIDES])])  # without Ray
    assert len(trace(tmp_path / "far")) == STEPS
    assert trace(tmp_path / "far") == trace(tmp_path / "near")
    assert trace(tmp_path / "far") == trace(run_as_pods_would(ray_cluster, recipe, dataset, tmp_path))


def test_cancelled_run_saves_and_goes_on_when_it_is_submitted_again(submit: list[str], tmp_path: Path) -> None:
    options = [*submit, f"run_dir={tmp_path}/run", "resources.workers=1", "total=300 steps"]
    code, output = run_command(*options)
    assert code == 0, output
    wait_for(has_step(tmp_path / "run", 3), "the third step")
    code, output = run_command(*options)
    assert code == 2, output
    assert "RUNNING" in output
    code, output = run_command("cancel", tmp_path / "run")
    assert code == 0, output
    code, output = run_command("logs", tmp_path / "run", "--follow")
    reached = len(metrics(tmp_path / "run"))
    assert code == 1, output
    assert reached < 300
    options[-1] = f"total={reached + 2} steps"
    code, output = run_command(*options, "--follow")
    assert code == 0, output
    assert f"from step {reached}" in output
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, reached + 3))


def test_no_secret_is_written(submit: list[str], ray_cluster: RayCluster, tmp_path: Path) -> None:
    code, output = run_command(*submit, f"run_dir={tmp_path}/run", "--dry-run")
    assert code == 0, output
    assert ray_cluster.token_file.read_text() not in output
    assert not (tmp_path / "run").exists()


def test_wrong_token_and_silent_address_are_one_clear_error(submit: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    wrong.chmod(0o600)
    arguments = [*submit, f"run_dir={tmp_path}/run", "--set", f"token_file={wrong}"]
    code, output = run_command(*arguments)
    assert code == 2, output
    assert "no job server that lets us in" in output
    wrong.chmod(0o644)
    code, output = run_command(*arguments)
    assert (code, "mode 0600" in output) == (2, True), output
    code, output = run_command(*submit, "--address", f"http://127.0.0.1:{free_port()}", f"run_dir={tmp_path}/run")
    assert code == 2, output
    assert "no job server" in output
    assert not (tmp_path / "run").exists()


def test_doctor_sees_the_job_server(ray_cluster: RayCluster) -> None:
    command = ["doctor", "--to", "ray", "--set", f"address={ray_cluster.address}", "--json"]
    done = subprocess.run(
        [*SISA_SCALE, *command, "--set", f"token_file={ray_cluster.token_file}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = {finding["check"]: finding["status"] for finding in json.loads(done.stdout)}
    assert found["ray jobs"] == "ok", done.stdout
