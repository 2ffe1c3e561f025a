"""The run directory: the whole of what a run leaves behind.

config.yaml         the resolved recipe              deepspeed.json      DeepSpeed's, generated from it
provenance.json     versions, source, hardware       attempts.jsonl      one line for each life of the processes
metrics.jsonl       one line a step                  monitors.jsonl      half-life and lambda
evaluations.jsonl   scores by step                   checkpoints/        see checkpoint.manifest
data_events.jsonl   damaged sequences, skipped       report.html         drawn at the end
stop                asks a run to save and stop
"""

import json
from pathlib import Path
from typing import Any

from sisa_scale.config.loading import dump_yaml
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.files import write_json, write_text
from sisa_scale.training.deepspeed_config import deepspeed_config
from sisa_scale.training.provenance import collect_provenance, now

DATA_EVENTS = "data_events.jsonl"
STEP_LOGS = ("metrics.jsonl", "monitors.jsonl", "evaluations.jsonl", DATA_EVENTS)


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
        """Append one line to a log."""
        with (self.path / log).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines of steps beyond `step`: they are taken again, and every step stands in a log once."""
        for log in STEP_LOGS:
            path = self.path / log
            if path.exists():
                kept = [
                    line
                    for line in path.read_text().splitlines(keepends=True)
                    if _step_of(line, default=step + 1) <= step
                ]
                write_text(path, "".join(kept))

    def begin_attempt(self, from_step: int, config: RunConfig, processes: list[str]) -> None:
        """Note the start of a life of the processes (host:pid by rank); one that never noted its end was killed."""
        attempts = self.attempts()
        for attempt in attempts:
            if attempt["ended"] is None:
                attempt.update(ended=now(), outcome="failed", reason="killed without a word")
        start = {"attempt": len(attempts) + 1, "started": now(), "from_step": from_step}
        shape: dict[str, Any] = {"world_size": config.resources.workers, "zero_stage": config.execution.zero_stage}
        shape["processes"] = processes
        self._write_attempts([*attempts, {**start, **shape, "ended": None, "outcome": None, "reason": None}])

    def end_attempt(self, outcome: str, reason: str | None = None) -> None:
        """Note how the newest attempt ended: finished, interrupted or failed."""
        attempts = self.attempts()
        attempts[-1].update(ended=now(), outcome=outcome, reason=reason)
        self._write_attempts(attempts)

    def attempts(self) -> list[dict[str, Any]]:
        """Return all attempts, oldest first."""
        path = self.path / "attempts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _write_attempts(self, attempts: list[dict[str, Any]]) -> None:
        write_text(self.path / "attempts.jsonl", "".join(json.dumps(attempt) + "\n" for attempt in attempts))


def _step_of(line: str, default: int) -> int:
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else default
    except (ValueError, KeyError, TypeError):
        return default  # torn by a crash
