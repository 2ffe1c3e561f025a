"""A Ray cluster of several nodes that loses one, gets it back, and has one taken away: the run shrinks and grows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from processes import finish, metrics, start_command

STEPS = 1000
ELASTIC = ["workers=2", "min_workers=1", "resize_every_seconds=2", "checkpoint.every_steps=5", "evaluation.tasks=[]"]
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    path = run_dir / "events.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [line for line in lines if line["event"] == kind]


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_training_on(run_dir: Path, num_workers: int) -> bool:
    """Return whether so many workers have taken a step since the run was last resumed."""
    resumed = events(run_dir, "resumed")
    if not resumed or resumed[-1]["world_size"] != num_workers:
        return False
    return bool(metrics(run_dir)[-1]["attempt"] == resumed[-1]["attempt"])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that takes no workers; the nodes of the test come to it."""
    scratch = tempfile.mkdtemp(prefix="sisa-", dir="/tmp")  # short: socket paths are limited
    (Path(scratch) / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", scratch)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": 80 << 20,
        "_system_config": QUICK_HEALTH_CHECKS,
    }
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield nodes
    finally:
        nodes.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def drain(cluster: Any, node: Any) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "120"], check=True, capture_output=True, timeout=120)


def test_lost_node_shrinks_the_run_and_a_new_one_grows_it(cluster: Any, recipe: Path, tmp_path: Path) -> None:
    def add_node() -> Any:
        return cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)

    add_node()
    lost = add_node()
    run_dir = tmp_path / "run"
    address = f"resources.ray_address={cluster.address}"
    process = start_command("train", recipe, f"run_dir={run_dir}", f"total={STEPS} steps", address, *ELASTIC)
    try:
        wait_until(lambda: bool(events(run_dir, "checkpoint")), "no checkpoint was written")
        cluster.remove_node(lost, allow_graceful=False)  # SIGKILL to its raylet
        wait_until(lambda: is_training_on(run_dir, 1), "the run did not go on without the node")
        new = add_node()
        wait_until(lambda: is_training_on(run_dir, 2), "the run did not take the new node")
        drain(cluster, new)
        wait_until(lambda: is_training_on(run_dir, 1), "the run did not go on without the drained node")
        os.killpg(process.pid, signal.SIGTERM)
        output = finish(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 75, output
    attempts = [json.loads(line) for line in (run_dir / "attempts.jsonl").read_text().splitlines()]
    # Ray may offer a node that is lost or drained, or not see one that is new: it then resizes once more.
    sizes = [size for size, _ in groupby(attempt["world_size"] for attempt in attempts)]
    assert sizes == [2, 1, 2, 1]
    assert attempts[0]["outcome"] == "failed"
    assert {a["outcome"] for a in attempts[1:] if a["resumed"] is not None} <= {"interrupted", "preempted"}
    assert [a["outcome"] for a in attempts[1:] if a["world_size"] == 2][-1] == "preempted"
    assert attempts[-1]["outcome"] == "preempted"
    assert "does not answer" in attempts[0]["reason"]
    # It saved before it grew, and before the node was taken away.
    assert {event["lost_steps"] for event in events(run_dir, "resumed")[2:]} == {0}
    steps = [line["step"] for line in metrics(run_dir)]
    assert steps == list(range(1, len(steps) + 1))
