"""Read a run directory into plain values."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sisa_scale.errors import DataError

EVENTS = "events.jsonl"
_Row = TypeVar("_Row")
_OPTIONAL = {
    "mfu",
    "data_wait_seconds",
    "stream_digest",
    "note",
    "standard_error",
    "value",
    "skipped",
    "from_step",
    "resumed",
    "ended",
    "reached_step",
    "outcome",
    "reason",
    "lost_steps",
    "lost_seconds",
}


@dataclass(frozen=True, slots=True)
class StepRow:
    """One line of `metrics.jsonl`: the state after `step` optimizer steps; `loss` in nats per token.

    Loss and gradient norm that were not finite are NaN; `skipped` marks steps that changed no weight.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    step_seconds: float
    attempt: int
    time: datetime
    mfu: float | None = None
    data_wait_seconds: float | None = None
    stream_digest: str | None = None
    skipped: bool | None = None


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """One line of `monitors.jsonl`: half-life in tokens of each layer, lambda of each head of each layer.

    Then for each layer the largest logits of either kind, the mean norms of C and B, and by how many radians the sum of
    phases at the last token changed in this step; and the share of each group of weights in the squared norm of the
    gradient. Empty where they were not read; NaN where they are not finite, and where nothing decays.
    """

    step: int
    half_life_tokens: list[float]
    lambda_: list[list[float]]
    largest_content_logit: list[float] = field(default_factory=list)
    largest_importance_logit: list[float] = field(default_factory=list)
    norm_c: list[float] = field(default_factory=list)
    norm_b: list[float] = field(default_factory=list)
    phase_change_radians: list[float] = field(default_factory=list)
    gradient_shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score of `evaluations.jsonl`; `variant` names the data, `value` is in `unit` and None when skipped."""

    step: int
    tokens: int
    task: str
    variant: str
    metric: str
    unit: str
    num_items: int
    value: float | None = None
    standard_error: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One line of `attempts.jsonl`: one life of the run's processes; see `runs.attempts`."""

    attempt: int
    started: datetime
    world_size: int
    zero_stage: int
    from_step: int | None = None
    resumed: datetime | None = None
    ended: datetime | None = None
    reached_step: int | None = None
    outcome: str | None = None
    reason: str | None = None
    lost_steps: int | None = None
    lost_seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """A run directory as values; `notes` says what was tolerated while reading.

    Steps that an attempt repeated after a resume appear once, as the last attempt saw them.
    """

    path: Path
    name: str
    config_text: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    steps: list[StepRow]
    monitors: list[MonitorRow]
    scores: list[ScoreRow]
    attempts: list[AttemptRow]
    events: list[dict[str, Any]]
    notes: list[str]


def read_run(path: Path) -> Run:
    """Read a run directory; only `config.yaml` has to be there.

    A torn last line (no line break after it, not JSON) is left out and noted. Raises DataError, with file and line,
    for anything else that is malformed.
    """
    notes: list[str] = []
    config_path = path / "config.yaml"
    if not config_path.is_file():
        allowed = "a run directory holds its resolved recipe"
        remedy = "Give the directory of a run, the one that holds metrics.jsonl."
        raise DataError.at(config_path, found="no such file", allowed=allowed, remedy=remedy)
    config_text = config_path.read_text(encoding="utf-8")
    config = _mapping(config_path, yaml.safe_load, config_text)
    provenance_path = path / "provenance.json"
    provenance = {}
    if provenance_path.is_file():
        provenance = _mapping(provenance_path, json.loads, provenance_path.read_text(encoding="utf-8"))
    else:
        notes.append("provenance.json is missing")
    steps = {row.step: row for row in _rows(path / "metrics.jsonl", _step, notes)}
    monitors = {row.step: row for row in _rows(path / "monitors.jsonl", _monitor, notes)}
    evaluations = {rows[0].step: rows for rows in _rows(path / "evaluations.jsonl", _scores, notes) if rows}
    attempts = {row.attempt: row for row in _rows(path / "attempts.jsonl", _attempt, notes)}
    return Run(
        path,
        _name(config, path),
        config_text,
        config,
        provenance,
        [steps[step] for step in sorted(steps)],
        [monitors[step] for step in sorted(monitors)],
        [row for step in sorted(evaluations) for row in evaluations[step]],
        [attempts[attempt] for attempt in sorted(attempts)],
        read_events(path),
        notes,
    )


def read_attempts(path: Path) -> list[AttemptRow]:
    """Return the attempts of a run directory, oldest first."""
    return _rows(path / "attempts.jsonl", _attempt, [])


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run directory, oldest first; lines that a crash tore are left out."""
    events = []
    for line in (path / EVENTS).read_bytes().splitlines() if (path / EVENTS).is_file() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _name(config: dict[str, Any], path: Path) -> str:
    section = config.get("run")
    nested = section.get("name") if isinstance(section, dict) else None
    return str(config.get("name") or nested or path.resolve().name)


def _mapping(path: Path, parse: Callable[[str], Any], text: str) -> dict[str, Any]:
    try:
        value = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(value, dict):
        raise _malformed(path, f"a {type(value).__name__} at the top")
    return value


def _rows(path: Path, build: Callable[[dict[str, Any]], _Row], notes: list[str]) -> list[_Row]:
    if not path.is_file():
        return []
    rows: list[_Row] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                notes.append(f"{path.name}:{number} is torn and left out; the process died while writing it")
                break
            raise _malformed(f"{path}:{number}", repr(line[:60])) from error
        try:
            rows.append(build(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed(f"{path}:{number}", f"{type(error).__name__}: {error}") from error
    return rows


def _malformed(where: object, found: str) -> DataError:
    allowed = "every line, and every file, is an object with the documented keys"
    return DataError.at(where, found=found, allowed=allowed, remedy="Restore the file from the run or remove the line.")


def _pick(row_type: type, value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `row_type`; keys that a newer version adds are ignored."""
    names = [field.name for field in fields(row_type)]
    return {name: value.get(name) if name in _OPTIONAL else value[name] for name in names}


def _step(value: dict[str, Any]) -> StepRow:
    picked = _pick(StepRow, value)
    picked |= {name: math.nan for name in ("loss", "gradient_norm") if picked[name] is None}
    numbers = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "step_seconds")
    picked |= {name: float(picked[name]) for name in numbers}
    picked |= {name: int(picked[name]) for name in ("step", "tokens", "attempt")}
    return StepRow(**picked | {"time": datetime.fromisoformat(picked["time"])})


def _monitor(value: dict[str, Any]) -> MonitorRow:
    lambdas = [[float(head) for head in heads] for heads in value["lambda"]]
    by_layer = ("largest_content_logit", "largest_importance_logit", "norm_c", "norm_b", "phase_change_radians")
    return MonitorRow(
        int(value["step"]),
        _numbers(value["half_life_tokens"]),
        lambdas,
        **{name: _numbers(value.get(name) or []) for name in by_layer},
        gradient_shares={str(k): float(share) for k, share in (value.get("gradient_shares") or {}).items()},
    )


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if number is None else float(number) for number in values]


def _scores(value: dict[str, Any]) -> list[ScoreRow]:
    place = {"step": int(value["step"]), "tokens": int(value["tokens"])}
    rows = [ScoreRow(**_pick(ScoreRow, score | place)) for score in value["scores"]]
    for row in rows:
        if not isinstance(row.value, int | float | None) or not isinstance(row.standard_error, int | float | None):
            raise TypeError(f"the value of {row.metric} is not a number")
    return rows


def _attempt(value: dict[str, Any]) -> AttemptRow:
    picked = _pick(AttemptRow, value)
    times = {name: picked[name] and datetime.fromisoformat(picked[name]) for name in ("started", "resumed", "ended")}
    return AttemptRow(**picked | times)
