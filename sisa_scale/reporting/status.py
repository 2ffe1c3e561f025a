"""How a run stands, from its files alone: what it does now, its progress, its attempts, its checkpoint. No torch."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

from sisa_scale.checkpoint.manifest import Manifest, read_manifest
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import CheckpointError
from sisa_scale.reporting.goodput import Ledger, ledger
from sisa_scale.runs.attempts import Attempt, read_attempts
from sisa_scale.runs.diagnostics import Diagnostics, Heartbeat
from sisa_scale.runs.logs.events import describe, event_warnings, read_events
from sisa_scale.runs.logs.metrics import StepTotals, read_totals
from sisa_scale.runs.owner import is_foreign
from sisa_scale.runs.recipe import read_recipe

State = Literal["running", "starting", "silent", "finished", "preempted", "interrupted", "failed", "not started"]
_SILENT_SECONDS = 60.0
_LATEST_EVENTS = 6


@dataclass(frozen=True)
class CheckpointStatus:
    """The newest sound checkpoint. is_verified: all files were read and compared, else manifest and sizes alone."""

    step: int
    location: str
    num_bytes: int
    is_verified: bool
    seconds_old: float | None


@dataclass(frozen=True)
class RankStatus:
    """What a worker last said of itself, and how many seconds ago; phase_seconds: how long it was in the phase then."""

    rank: int
    host: str
    phase: str
    step: int
    phase_seconds: float
    seconds_old: float


@dataclass(frozen=True)
class Status:
    """Everything that `sisa-scale status` shows; times in seconds."""

    name: str
    path: str
    state: State
    doing: str
    step: int
    total_steps: int
    tokens: int
    loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    eta_seconds: float | None
    peak_memory_bytes: int | None
    ranks: Sequence[RankStatus]
    attempts: Sequence[Attempt]
    goodput: Ledger
    checkpoint: CheckpointStatus | None
    latest: Sequence[tuple[datetime, str]]
    warnings: Sequence[str] = field(default_factory=list)


def read_status(run_dir: Path, *, verify: bool = False, now: datetime | None = None) -> Status:
    """Read a run directory; verify: read all files of the newest checkpoint and compare their checksums.

    Raises ConfigError where there is no run.
    """
    now = now or datetime.now(UTC)
    config = read_recipe(run_dir)
    attempts, events, steps = read_attempts(run_dir), read_events(run_dir), read_totals(run_dir)
    beats = Diagnostics(run_dir, attempts[-1].attempt).heartbeats() if attempts else []
    state, doing = _doing(attempts, beats, events, now)
    if is_foreign(run_dir):
        state, doing = "silent", "a copy of a run, made while that was at work; nothing works here"
    warnings = [*steps.warnings(), *event_warnings(events)]
    store = CheckpointStore(run_dir, config.checkpoint.directory)
    checkpoint = _checkpoint(store, events, now, warnings, verify=verify)
    is_alive = state in ("running", "starting")
    last_sign = max([now] if is_alive else [*(b[1] for b in beats), *([steps.time] if steps.time else [])], default=now)
    spoken = [(datetime.fromisoformat(event["time"]), describe(event)) for event in events]
    return Status(
        name=config.name,
        path=str(run_dir),
        state=state,
        doing=doing,
        step=steps.step,
        total_steps=config.total_steps,
        tokens=steps.tokens,
        loss=steps.loss,
        tokens_per_second=steps.tokens_per_second,
        mfu=steps.mfu,
        eta_seconds=_seconds_left(config, steps) if is_alive else None,
        peak_memory_bytes=steps.peak_memory_bytes,
        ranks=sorted((_rank(beat, (now - time).total_seconds()) for beat, time in beats), key=lambda rank: rank.rank),
        attempts=attempts,
        goodput=ledger(attempts, steps.seconds_by_attempt, events, last_sign),
        checkpoint=checkpoint,
        latest=[(time, words) for time, words in spoken if words is not None][-_LATEST_EVENTS:],
        warnings=warnings,
    )


def _seconds_left(config: RunConfig, steps: StepTotals) -> float | None:
    """Return how long the steps that are left take at the speed of the last ones."""
    if not steps.tokens_per_second:
        return None
    before = config.data.batches.tokens_before
    return (before(config.total_steps) - before(steps.step)) / steps.tokens_per_second


def _rank(beat: Heartbeat, seconds_old: float) -> RankStatus:
    return RankStatus(beat.rank, beat.host, beat.phase, beat.step, beat.phase_seconds, round(seconds_old, 1))


def _doing(
    attempts: Sequence[Attempt],
    beats: Sequence[tuple[Heartbeat, datetime]],
    events: Sequence[dict[str, Any]],
    now: datetime,
) -> tuple[State, str]:
    """Return the state of a run and one sentence about it."""
    is_driven = _is_driven(events)
    if not attempts:
        return ("starting", "starting its first workers") if is_driven else ("not started", "no worker has begun")
    newest = attempts[-1]
    if newest.ended is not None:
        return _ended(newest, _ago(now - newest.ended), is_driven=is_driven)
    began = _ago(now - newest.started)
    freshest = max((time for _, time in beats), default=None)
    if freshest is not None and (now - freshest).total_seconds() <= _SILENT_SECONDS:
        return "running", _phases(beats, now)
    if freshest is None and (is_driven or (now - newest.started).total_seconds() < _SILENT_SECONDS):
        return "starting", f"attempt {newest.attempt} began {began} ago"
    quiet = began if freshest is None else _ago(now - freshest)
    return "silent", f"no worker of attempt {newest.attempt} has given a sign of life for {quiet}"


def _ended(newest: Attempt, ago: str, *, is_driven: bool) -> tuple[State, str]:
    if newest.outcome == "finished":
        return "finished", f"finished {ago} ago"
    if is_driven:
        why = f" ({newest.reason})" if newest.reason else ""
        return "starting", f"starting again: attempt {newest.attempt} ended {ago} ago as {newest.outcome}{why}"
    if newest.outcome in ("preempted", "interrupted"):
        return cast(State, newest.outcome), f"stopped {ago} ago, with a checkpoint, because it was asked to"
    return "failed", f"attempt {newest.attempt} failed {ago} ago: {newest.reason}"


def _phases(beats: Sequence[tuple[Heartbeat, datetime]], now: datetime) -> str:
    """Say what the workers do, the longest at it first, and which of them are silent."""
    silent = [beat.rank for beat, time in beats if (now - time).total_seconds() > _SILENT_SECONDS]
    number = Counter(beat.phase for beat, _ in beats if beat.rank not in silent)
    slowest = max((beat for beat, _ in beats if beat.rank not in silent), key=lambda beat: beat.phase_seconds)
    phases = ", ".join(f"{phase} ({count})" if len(number) > 1 else phase for phase, count in number.most_common())
    text = f"{phases}; longest at it: rank {slowest.rank}, {slowest.phase_seconds:.1f} s, step {slowest.step:,}"
    return text + (f"; silent: rank {', '.join(map(str, silent))}" if silent else "")


def _is_driven(events: Sequence[dict[str, Any]]) -> bool:
    """Whether the command that started the run lives, as far as this machine can know."""
    launch = next((event for event in reversed(events) if event["event"] == "launch"), None)
    host, _, pid = str(launch.get("process", "")).rpartition(":") if launch else ("", "", "")
    if host != platform.node() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _checkpoint(
    store: CheckpointStore, events: Sequence[dict[str, Any]], now: datetime, warnings: list[str], *, verify: bool
) -> CheckpointStatus | None:
    """Return the newest checkpoint that passes; what is wrong with newer ones is added to the warnings."""
    for step in reversed(store.steps()):
        location = store.location(step)
        try:
            manifest = read_manifest(location)
            if verify:
                verified(location, manifest)
            else:
                _check_sizes(location, manifest)
        except CheckpointError as error:
            warnings += [str(problem) for problem in error.problems]
            continue
        saved = [event["time"] for event in events if event["event"] == "checkpoint" and event["step"] == step]
        age = (now - datetime.fromisoformat(saved[-1])).total_seconds() if saved else None
        num_bytes = sum(info.num_bytes for info in manifest.files)
        return CheckpointStatus(step, str(location), num_bytes, verify, age)
    return None


def _check_sizes(location: Path | str, manifest: Manifest) -> None:
    for info in manifest.files if isinstance(location, Path) else ():
        path = Path(location) / info.name
        num_bytes = path.stat().st_size if path.is_file() else None
        if num_bytes != info.num_bytes:
            raise CheckpointError.at(
                path,
                found="no such file" if num_bytes is None else f"{num_bytes} bytes",
                allowed=f"its manifest lists {info.num_bytes} bytes",
                remedy="A resume sets this checkpoint aside and takes the one before it.",
            )


def _ago(age: timedelta) -> str:
    seconds = max(0, round(age.total_seconds()))
    return f"{seconds} s" if seconds < 120 else str(timedelta(seconds=seconds))
