"""A run directory as plain values, for those who look at a run from outside."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sisa_scale.errors import DataError
from sisa_scale.runs.attempts import Attempt, read_attempts
from sisa_scale.runs.layout import METRICS, PROVENANCE, attempt_path, config_path, holds_run
from sisa_scale.runs.logs.evaluations import (
    LaterScores,
    SampleRow,
    ScoreRow,
    read_later_scores,
    read_samples,
    read_scores,
)
from sisa_scale.runs.logs.events import Event, read_events
from sisa_scale.runs.logs.health import HealthRow, read_health
from sisa_scale.runs.logs.jsonl import malformed
from sisa_scale.runs.logs.metrics import StepRow, read_steps
from sisa_scale.runs.logs.monitors import MonitorRow, read_monitors
from sisa_scale.runs.problems import file_errors


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """The recipe of an attempt, and what it ran on."""

    config: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run directory as values; `notes` says what was tolerated while reading; `records` are by attempt.

    `later` is what `evaluate --record` measured.

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
    attempts: list[Attempt]
    events: list[Event]
    notes: list[str]
    records: Mapping[int, AttemptRecord] = field(default_factory=dict)
    later: Sequence[LaterScores] = ()
    health: list[HealthRow] = field(default_factory=list)
    samples: list[SampleRow] = field(default_factory=list)


def read_run(path: Path) -> Run:
    """Read a run directory; only its recipe has to be there.

    A torn last line (no line break after it, not JSON) is left out and noted. Raises DataError, with file and line,
    for anything else that is malformed.
    """
    notes: list[str] = []
    recipe, provenance_path = config_path(path), path / PROVENANCE
    if not recipe.is_file():
        allowed = "a run directory holds its resolved recipe"
        remedy = f"Give the directory of a run, the one that holds {METRICS}."
        raise DataError.at(recipe, found="no such file", allowed=allowed, remedy=remedy)
    config_text, config = _mapping(recipe, yaml.safe_load)
    provenance: dict[str, Any] = {}
    if provenance_path.is_file():
        _, provenance = _mapping(provenance_path, json.loads)
    else:
        notes.append(f"{PROVENANCE} is missing")
    return Run(
        path=path,
        name=_name(config, path),
        config_text=config_text,
        config=config,
        provenance=provenance,
        steps=read_steps(path, notes),
        monitors=read_monitors(path, notes),
        scores=read_scores(path, notes),
        attempts=read_attempts(path, notes),
        events=read_events(path),
        notes=notes,
        records=_records(path),
        later=read_later_scores(path, notes),
        health=read_health(path, notes),
        samples=read_samples(path, notes),
    )


def _records(run_dir: Path) -> dict[int, AttemptRecord]:
    """Return what attempts kept; those of earlier versions, and those that were killed at their start, kept nothing."""
    records = {}
    for place in sorted(attempt_path(run_dir, 0).parent.glob("[0-9]*")):
        if holds_run(place) and (place / PROVENANCE).is_file():
            recipe, provenance = _mapping(config_path(place), yaml.safe_load), _mapping(place / PROVENANCE, json.loads)
            records[int(place.name)] = AttemptRecord(recipe[1], provenance[1])
    return records


def _name(config: dict[str, Any], path: Path) -> str:
    section = config.get("run")
    nested = section.get("name") if isinstance(section, dict) else None
    return str(config.get("name") or nested or path.resolve().name)


def _mapping(path: Path, parse: Callable[[str], Any]) -> tuple[str, dict[str, Any]]:
    with file_errors(path):
        text = path.read_text(encoding="utf-8")
    try:
        value = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        raise malformed(path, str(error)) from error
    if not isinstance(value, dict):
        raise malformed(path, f"a {type(value).__name__} at the top")
    return text, value
