"""One life of a run on forked ranks: start them, let happen what is to happen, wait for the end."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from draw import MICRO_BATCH_SEQUENCES, Life, Scenario
from ranks import Ranks, start_ranks

from sisa_scale.checkpoint.manifest import MANIFEST_NAME
from sisa_scale.checkpoint.store import CheckpointStore

LIFE_SECONDS = 120.0
_MARKER = "0"  # of the first fault in SISA_SCALE_FAULTS_FIRED
WATCHED = ["watchdog.floor_seconds=2", "watchdog.slow_floor_seconds=2", "watchdog.first_seconds=60"]


@dataclass(slots=True)
class Lived:
    """How a life ended. fault: when it was struck (Unix seconds) or None; over: when the last rank ended."""

    codes: list[int]
    fault: float | None
    over: float
    stuck: tuple[int, ...] = ()  # ranks that the launcher had to end


def settings_of(life: Life, run_dir: Path, scenario: Scenario | None = None) -> list[str]:
    """Return the overrides of a life."""
    shape = [f"zero_stage={life.zero_stage}", f"micro_batch_sequences={MICRO_BATCH_SEQUENCES[life.workers]}"]
    return [*shape, f"run_dir={run_dir}", *(WATCHED if scenario is not None and scenario.is_watched else [])]


def live(scenario: Scenario | None, life: Life, recipe: Path, folder: Path, number: int, usual_seconds: float) -> Lived:
    """Live one life of the run in folder/run; its logs and temporary files lie in folder, too."""
    run_dir, fired = folder / "run", folder / f"fired_{number}"
    fired.mkdir()
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {"SISA_SCALE_FAULTS": life.faults, "SISA_SCALE_FAULTS_FIRED": str(fired), "TMPDIR": f"{folder}/tmp"}
    overrides = settings_of(life, run_dir, scenario)
    begun = (run_dir / "config.yaml").exists()
    arguments = [str(run_dir), *overrides] if begun else [str(recipe), *overrides]
    damaged = time.time() if life.damage and damage_newest(run_dir, life) else None
    ranks = start_ranks(life.workers, arguments, folder / f"life_{number}", environment)
    struck: list[float] = []

    def strike() -> None:
        plan = life.strike
        if plan is None or struck or time.time() < ranks.started + (plan.moment or 0.0) * usual_seconds:
            return
        struck.append(time.time())
        chosen = [*range(life.workers)] if plan.target == "ranks" else [int(plan.target.split()[-1])]
        ranks.send(signal.Signals[plan.signal], chosen)

    stuck = ranks.wait(LIFE_SECONDS, strike)
    marker = fired / _MARKER
    fault = marker.stat().st_mtime if marker.exists() else next(iter(struck), damaged)
    return Lived([ranks.codes[r] for r in range(life.workers)], fault, max(ranks.ended.values()), tuple(stuck))


def damage_newest(run_dir: Path, life: Life) -> bool:
    """Damage the newest checkpoint on disk; returns whether there was one."""
    newest = CheckpointStore(run_dir).newest()
    if newest is None or life.damage is None:
        return False
    how, _, what = life.damage.partition("_")
    parts = sorted(Path(newest).glob("rank_*"))
    path = Path(newest) / MANIFEST_NAME if what == "manifest" else parts[int(life.dice * len(parts))]
    size = path.stat().st_size
    place = int(life.dice * size)
    if how == "lost":
        path.unlink()
    elif how == "torn":
        os.truncate(path, place)
    else:
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << int(life.dice * 8e6) % 8
        path.write_bytes(data)
    return True


__all__ = ["LIFE_SECONDS", "Lived", "Ranks", "live", "settings_of"]
