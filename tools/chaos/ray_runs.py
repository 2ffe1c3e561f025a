"""Lives under Ray: the command as a person uses it, in processes of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ranks
from checks import Outcome, after, lines, unix
from draw import Life, Scenario
from life import settings_of

_LIFE_SECONDS = 300.0
_REMAINS_SECONDS = 180.0
_POLL_SECONDS = 0.02
_ELASTIC = ["resources.min_workers=1", "resources.resize_every_seconds=600"]
_ENDED = {0}


def live_ray(outcome: Outcome, folder: Path, recipe: Path) -> None:
    """Live the lives of a scenario under Ray; the run is folder/run."""
    (folder / "tmp").mkdir()
    with _cluster(outcome.scenario, folder) as nodes:
        fault = None
        for number, life in enumerate([*outcome.scenario.lives, outcome.scenario.lives[-1]]):
            is_planned = number < len(outcome.scenario.lives)
            code, struck = _live(outcome, life if is_planned else _quiet(life), folder, recipe, number, nodes)
            is_meant = is_planned and bool(life.faults)
            outcome.faults_meant += is_meant
            outcome.faults_acted += is_meant and struck is not None
            fault = struck if struck is not None else fault
            if number + 1 >= len(outcome.scenario.lives) and code in _ENDED:
                break
        else:
            outcome.problems.append(f"the command ended with exit code {code}")
    if fault is not None:
        _time(outcome, folder / "run", fault)


def _quiet(life: Life) -> Life:
    return Life(life.workers, life.zero_stage)


def _live(
    outcome: Outcome, life: Life, folder: Path, recipe: Path, number: int, nodes: dict[str, Any] | None
) -> tuple[int, float | None]:
    """Run the command once; returns its exit code and when it was struck."""
    run_dir, fired = folder / "run", folder / f"fired_{number}"
    fired.mkdir()
    overrides = [*settings_of(life, run_dir, outcome.scenario), f"resources.workers={life.workers}"]
    if nodes is not None:
        overrides += [f"resources.ray_address={nodes['address']}", *_ELASTIC]
    action = ["resume", str(run_dir)] if (run_dir / "config.yaml").exists() else ["train", str(recipe)]
    command = [sys.executable, "-m", "sisa_scale.cli.main", *action, *overrides]
    with (folder / f"driver_{number}.log").open("w") as log:
        driver = subprocess.Popen(
            command,
            env={**os.environ, **_environment(life, folder, number)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    struck: float | None = None
    until = time.monotonic() + _LIFE_SECONDS
    while driver.poll() is None:
        if time.monotonic() > until:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            outcome.problems.append(f"life {number + 1} did not end within {_LIFE_SECONDS:.0f} s")
            break
        if struck is None and (fired / "0").exists():
            struck = (fired / "0").stat().st_mtime
            if life.strike is not None:
                struck = time.time()
                _strike(life, driver.pid, run_dir, nodes)
        time.sleep(_POLL_SECONDS)
    if life.strike is not None and life.strike.target == "driver":
        begun = time.monotonic()
        left = ranks.remains(_REMAINS_SECONDS)
        outcome.problems += [f"outlived its driver: {name}" for name in left]
        outcome.stages["all processes gone"] = round(time.monotonic() - begun, 1)
    return driver.returncode, struck


def _environment(life: Life, folder: Path, number: int) -> dict[str, str]:
    fired = str(folder / f"fired_{number}")
    return {"SISA_SCALE_FAULTS": life.faults, "SISA_SCALE_FAULTS_FIRED": fired, "TMPDIR": f"{folder}/tmp"}


def _strike(life: Life, driver: int, run_dir: Path, nodes: dict[str, Any] | None) -> None:
    assert life.strike is not None
    number = signal.Signals[life.strike.signal]
    if life.strike.target == "driver":
        os.kill(driver, number)
    elif nodes is not None:
        rank = int(life.strike.target.split()[-1])
        os.kill(nodes["raylets"][lines(run_dir / "attempts.jsonl")[-1]["nodes"][rank]], number)


@contextmanager
def _cluster(scenario: Scenario, folder: Path) -> Iterator[dict[str, Any] | None]:
    """Start the cluster of several nodes if the scenario wants one; its workers inherit the first life's faults."""
    if scenario.launcher != "nodes":
        yield None
        return
    scratch = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")  # short: socket paths are limited
    program = [sys.executable, str(Path(__file__).with_name("cluster.py"))]
    with (folder / "cluster.log").open("w") as log:
        cluster = subprocess.Popen(
            program,
            env={**os.environ, **_environment(scenario.lives[0], folder, 0), "RAY_TMPDIR": scratch},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert cluster.stdout is not None
        yield json.loads(cluster.stdout.readline())
    finally:
        cluster.communicate()
        shutil.rmtree(scratch, ignore_errors=True)


def _time(outcome: Outcome, run_dir: Path, fault: float) -> None:
    """Fill in detection, recovery, steps redone, and where the time of the recovery went."""
    events = lines(run_dir / "events.jsonl")
    outcome.recovery_seconds, outcome.redone_steps = after(run_dir, fault)
    noticed = [unix(e["time"]) for e in events if e["event"] in ("workers_lost", "hang") and unix(e["time"]) > fault]
    following = [a for a in lines(run_dir / "attempts.jsonl") if unix(a["started"]) > fault]
    marks = {"noticed": min(noticed, default=None)}
    if following and outcome.recovery_seconds is not None:
        marks |= {"workers joined": unix(following[0]["started"])}
        marks |= {"state restored": unix(following[0]["resumed"]), "first step": fault + outcome.recovery_seconds}
    before = fault
    for name, mark in marks.items():
        if mark is not None:
            outcome.stages[name] = round(mark - before, 3)
            before = mark
    outcome.detection_seconds = outcome.stages.get("noticed")
