"""The run directory: the whole of what a run leaves behind.

config.yaml         the resolved recipe              deepspeed.json      DeepSpeed's, generated from it
provenance.json     versions, source, hardware       attempts.jsonl      one line for each life of the processes
metrics.jsonl       one line a step                  monitors.jsonl      what SISA's layers do
evaluations.jsonl   scores by step                   checkpoints/        see checkpoint.manifest
data_events.jsonl   damaged sequences, skipped       events.jsonl        what happened to the run, never rewound
diagnostics/        heartbeats, stacks of a hang     report.html         drawn at the end
stop                asks a run to save and stop
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from sisa_scale.config.loading.load import dump_yaml
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.files import remove_abandoned, write_json, write_text
from sisa_scale.runs.attempts import Attempt, Event, cause_of_death, new_attempt
from sisa_scale.runs.provenance import collect_provenance, now
from sisa_scale.training.engine.deepspeed_config import deepspeed_config

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
DATA_EVENTS = "data_events.jsonl"
STEP_LOGS = (METRICS, "monitors.jsonl", "evaluations.jsonl", DATA_EVENTS)
_TAIL_BYTES = 1 << 16


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.stop_path = path / "stop"

    def create(self) -> None:
        """Claim a new directory; raises ConfigError when a run lives there already."""
        if self.config_path.exists():
            raise ConfigError.at(
                self.path,
                found="a run",
                allowed="a run directory holds one run",
                remedy=f"Continue it with `sisa-scale resume {self.path}`, or choose another with run_dir=PATH.",
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def record(self, config: RunConfig, data_fingerprint: str) -> None:
        """Write what the run is: config, DeepSpeed's config, provenance."""
        write_text(self.config_path, dump_yaml(config))
        write_json(self.path / "deepspeed.json", deepspeed_config(config))
        write_json(self.path / "provenance.json", collect_provenance(config, data_fingerprint))

    def append(self, log: str, line: dict[str, Any]) -> None:
        """Append one line to a log in a single write; a line that a crash tore keeps a line of its own."""
        data = json.dumps(line).encode() + b"\n"
        with (self.path / log).open("a+b", buffering=0) as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                data = data if stream.read(1) == b"\n" else b"\n" + data
            stream.write(data)

    def event(self, kind: str, **fields: Any) -> None:
        """Note what happened, when, and in which attempt, in events.jsonl."""
        self.append(EVENTS, {"event": kind, "time": now(), "attempt": self.current_attempt(), **fields})

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return self._lines(EVENTS)

    def sync_logs(self) -> None:
        """Make the logs of steps durable, so that no checkpoint outlives the lines of its steps."""
        for log in STEP_LOGS:
            if (self.path / log).exists():
                with (self.path / log).open("rb") as stream:
                    os.fsync(stream.fileno())

    def attempts(self) -> list[Attempt]:
        """Return all attempts, oldest first."""
        return self._lines("attempts.jsonl")

    def current_attempt(self) -> int:
        """Return the number of the newest attempt; 0 before the first."""
        return len(self.attempts())

    def begin_attempt(self, config: RunConfig, processes: list[str], nodes: list[str]) -> int:
        """Note the start of a life of the processes (host:pid and node by rank); returns its number.

        A life before it that never noted its end was killed: what is known of that is filled in, and the files that it
        was writing are removed.
        """
        remove_abandoned(self.path)
        self.close_attempt()
        attempts = self.attempts()
        begun = new_attempt(len(attempts) + 1, now(), config.resources.workers, config.execution.zero_stage)
        self._write_attempts([*attempts, {**begun, "processes": processes, "nodes": nodes}])
        return len(attempts) + 1

    def take_up(self, step: int) -> None:
        """Note the step that the newest attempt goes on from; what was finished beyond it is lost and taken again."""
        lost = [line for line in self._lines(METRICS) if _is_beyond(line, step) and "step_seconds" in line]
        attempts = self.attempts()
        for attempt in attempts:
            own = [line for line in lost if line["attempt"] == attempt["attempt"]]
            attempt["lost_steps"] = attempt.get("lost_steps", 0) + len(own)
            attempt["lost_seconds"] = round(attempt.get("lost_seconds", 0.0) + _seconds(own), 3)
        newest, down_seconds = attempts[-1], 0.0
        newest.update(from_step=step, resumed=now())
        if len(attempts) > 1:
            ended, resumed = map(datetime.fromisoformat, (attempts[-2]["ended"], newest["resumed"]))
            down_seconds = (resumed - ended).total_seconds()
        self._write_attempts(attempts)
        self.rewind(step)
        lost_work = {"lost_steps": len(lost), "lost_seconds": _seconds(lost), "down_seconds": down_seconds}
        self.event("resumed", step=step, world_size=newest["world_size"], **lost_work)

    def rewind(self, step: int) -> None:
        """Drop the lines of steps beyond `step`: they are taken again, and every step stands in a log once."""
        for log in STEP_LOGS:
            if (self.path / log).exists():
                kept = [line for line in self._lines(log) if not _is_beyond(line, step)]
                write_text(self.path / log, "".join(json.dumps(line) + "\n" for line in kept))

    def end_attempt(self, outcome: str, reason: str | None = None) -> None:
        """Note how the newest attempt ended itself: finished, preempted or interrupted."""
        attempts = self.attempts()
        attempts[-1].update(ended=now(), outcome=outcome, reason=reason, reached_step=self.last_step())
        self._write_attempts(attempts)

    def close_attempt(self) -> Attempt | None:
        """Note the death of the newest attempt, unless it has an end; returns its line, None without attempts."""
        attempts = self.attempts()
        if attempts and attempts[-1]["ended"] is None:
            cause = cause_of_death(attempts[-1], self.events())
            attempts[-1].update(ended=self._last_sign_of_life(), reached_step=self.last_step(), **cause)
            self._write_attempts(attempts)
        return attempts[-1] if attempts else None

    def mark_final(self) -> None:
        """Note that the run stops after the newest attempt until a person goes on."""
        attempts = self.attempts()
        if attempts and not attempts[-1].get("is_final"):
            attempts[-1]["is_final"] = True
            self._write_attempts(attempts)

    def last_step(self) -> int:
        """Return the last step in metrics.jsonl; 0 before the first."""
        return max((line["step"] for line in self._last_lines(METRICS)), default=0)

    def since(self, step: int) -> tuple[int, float]:
        """Return how many steps were finished after `step`, and the seconds that they took."""
        beyond = [line for line in self._lines(METRICS) if _is_beyond(line, step) and "step_seconds" in line]
        return len(beyond), _seconds(beyond)

    def _last_sign_of_life(self) -> str:
        attempt = self.attempts()[-1]
        lines = [*self._last_lines(METRICS), *self._last_lines(EVENTS)]
        seen = [line["time"] for line in lines if line.get("attempt") == attempt["attempt"]]
        return max([attempt["started"], *seen])

    def _last_lines(self, log: str) -> list[dict[str, Any]]:
        """Return the whole lines in the last few kilobytes of a log."""
        path = self.path / log
        if not path.exists():
            return []
        with path.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES)
            stream.seek(start)
            lines = (_parsed(line) for line in stream.read().splitlines()[bool(start) :])
            return [line for line in lines if line is not None]

    def _lines(self, log: str) -> list[dict[str, Any]]:
        """Return the whole lines of a log; a line that a crash tore is left out."""
        path = self.path / log
        lines = (_parsed(line) for line in path.read_bytes().splitlines()) if path.exists() else ()
        return [line for line in lines if line is not None]

    def _write_attempts(self, attempts: list[Attempt]) -> None:
        write_text(self.path / "attempts.jsonl", "".join(json.dumps(attempt) + "\n" for attempt in attempts))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line of a log, or None if a crash tore it."""
    try:
        value = orjson.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_beyond(line: dict[str, Any], step: int) -> bool:
    """Whether a line belongs to a step after `step`, or to none."""
    return not isinstance(line.get("step"), int) or line["step"] > step


def _seconds(lines: list[dict[str, Any]]) -> float:
    return round(sum(line["step_seconds"] for line in lines), 3)
