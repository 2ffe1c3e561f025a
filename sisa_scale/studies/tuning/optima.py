"""Tuned learning rates: from the tuning trials of a study to one rate for each architecture, kept with its evidence.

`tuning.json` is written once, when all tuning trials have ended; every later trial takes its rate from there.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sisa_scale.errors import ConfigError, DataError, Problem
from sisa_scale.files import write_json
from sisa_scale.runs.logs.events import read_events
from sisa_scale.scaling.learning_rate import Optimum, find_optimum
from sisa_scale.studies.state import TrialStatus

TUNING, FORMAT = "tuning.json", "sisa-scale-study-tuning"


@dataclass(frozen=True, slots=True)
class Tuned:
    """The rate of an architecture. trials: what it rests on, by name, rate, seed and loss, None for a diverged one."""

    architecture: str
    optimum: Optimum
    trials: tuple[dict[str, Any], ...]


def read_tuning(study_dir: Path) -> list[Tuned]:
    """Return what tuning found, nothing before it has ended. Raises DataError for a damaged file."""
    path = study_dir / TUNING
    if not path.exists():
        return []
    try:
        value = json.loads(path.read_text())
        assert value["format"] == FORMAT
        return [_from_plain(row) for row in value["architectures"]]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError.at(
            path,
            found=f"{type(error).__name__}: {error}",
            allowed="the rates that tuning found, as they were written",
            remedy="Delete the file; the next submit makes it again from the tuning trials.",
        ) from error


def tuned_rates(tuned: Sequence[Tuned]) -> dict[str, float]:
    """Return the rate of every architecture, to four digits."""
    return {one.architecture: float(f"{one.optimum.rate:.4g}") for one in tuned}


def settle(study_dir: Path, states: Sequence[TrialStatus]) -> list[Tuned]:
    """Find the best rate of every architecture and write tuning.json.

    states: of the tuning trials, all of which are over. Raises ConfigError, with a remedy for each, where an optimum is
    at an edge of its sweep.
    """
    found, problems = [], list[Problem]()
    for name in dict.fromkeys(str(status.trial.values["architecture"]) for status in states):
        own = [status for status in states if status.trial.values["architecture"] == name]
        trials = tuple(_evidence(status) for status in own)
        losses = [math.inf if row["loss"] is None else float(row["loss"]) for row in trials]
        rates, seeds = [float(row["rate"]) for row in trials], [int(row["seed"]) for row in trials]
        try:
            key = f"architectures.{name}.learning_rate_sweep"
            optimum = find_optimum(rates, losses, seeds, f"{study_dir}, learning rate of {name}", key)
            found.append(Tuned(name, optimum, trials))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError.many(problems)
    value = {
        "format": FORMAT,
        "settled": datetime.now(UTC).isoformat(timespec="seconds"),
        "loss": "held-out, nats per token, after the last step",
        "architectures": [asdict(one) for one in found],
    }
    write_json(study_dir / TUNING, value)
    return found


def is_over(status: TrialStatus) -> bool:
    """Whether a tuning trial says what there is to say: it has finished, or diverged."""
    return status.state == "finished" or has_diverged(status)


def has_diverged(status: TrialStatus) -> bool:
    """Whether the guard gave a trial up: its last attempt refused steps and failed in training."""
    if status.state != "failed" or "TrainingError" not in (status.reason or ""):
        return False
    events = read_events(status.trial.directory)
    last = max((event.get("attempt", 0) for event in events), default=0)
    return any(event["event"] == "step_skipped" and event.get("attempt", 0) == last for event in events)


def _evidence(status: TrialStatus) -> dict[str, Any]:
    values = status.trial.values
    loss = status.loss if status.loss is not None and math.isfinite(status.loss) else None
    return {"name": status.trial.name, "rate": values["learning_rate"], "seed": values["seed"], "loss": loss}


def _from_plain(row: Mapping[str, Any]) -> Tuned:
    values = dict(row["optimum"])
    for key in ("coefficients", "fitted", "notes"):
        values[key] = tuple(values[key])
    return Tuned(row["architecture"], Optimum(**values), tuple(row["trials"]))
