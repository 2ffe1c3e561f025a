"""The run directory as one object: the whole of what a run leaves behind. `layout` lists its files."""

import json
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sisa_scale.config.loading.load import dump_yaml
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError, SisaScaleWarning
from sisa_scale.files import remove_abandoned, write_json, write_text
from sisa_scale.runs import layout
from sisa_scale.runs.attempts import Attempt, count_attempts, read_attempts, with_cause_of_death, write_attempts
from sisa_scale.runs.logs import metrics, step_logs
from sisa_scale.runs.logs.evaluations import SampleRow, ScoreRow, append_samples, append_scores
from sisa_scale.runs.logs.events import Event, append_event, last_events, new_event, read_events
from sisa_scale.runs.logs.health import HealthRow, append_health
from sisa_scale.runs.logs.monitors import MonitorRow, append_monitor
from sisa_scale.runs.problems import RunDirectoryError, file_errors


class RunDirectory:
    """One run on disk. Files that the operating system refuses raise RunDirectoryError.

    Lines of logs do not: one that the disk does not take waits in memory and is tried again with every later one, in
    its order. `sync_logs` raises while lines wait, so no checkpoint outlives the lines of its steps.
    """

    def __init__(self, path: Path) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.RLock()  # checkpoints are written by another thread
        self.path = path
        self.config_path = layout.config_path(path)
        self.stop_path = path / layout.STOP

    def create(self) -> None:
        """Claim a new directory; raises ConfigError when a run lives there already."""
        if self.config_path.exists():
            raise ConfigError.at(
                self.path,
                found="a run",
                allowed="a run directory holds one run",
                remedy=f"Continue it with `sisa-scale resume {self.path}`, or choose another with run_dir=PATH.",
            )
        with file_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def record(self, config: RunConfig, deepspeed: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write what the run is: config, DeepSpeed's config, provenance; for the newest attempt, too, if there is one.

        What an attempt has stays as it is; that of the run itself is that of its newest attempt.
        """
        attempt = self.current_attempt()
        with file_errors(self.path):
            for place in ([layout.attempt_path(self.path, attempt)] if attempt else []) + [self.path]:
                write_json(place / layout.DEEPSPEED, deepspeed)
                write_json(place / layout.PROVENANCE, provenance)
                write_text(layout.config_path(place), dump_yaml(config))

    def add_step(self, row: metrics.StepRow) -> None:
        """Note a step."""
        self._append(lambda: metrics.append_step(self.path, row))

    def add_monitor(self, row: MonitorRow) -> None:
        """Note what the monitors read after a step."""
        self._append(lambda: append_monitor(self.path, row))

    def add_health(self, row: HealthRow) -> None:
        """Note what was read of every layer after a step."""
        self._append(lambda: append_health(self.path, row))

    def add_scores(self, rows: Sequence[ScoreRow]) -> None:
        """Note the scores of one step."""
        self._append(lambda: append_scores(self.path, rows))

    def add_samples(self, row: SampleRow) -> None:
        """Note the prompts that were continued at one step."""
        self._append(lambda: append_samples(self.path, row))

    def add_data_event(self, step: int, event: dict[str, Any]) -> None:
        """Note what the data stream says of a step."""
        self._append(lambda: step_logs.append_data_event(self.path, step, event))

    def event(self, kind: str, **fields: Any) -> None:
        """Note what happened, when, and in which attempt; `events.EVENTS` declares the kinds."""
        event = new_event(self.current_attempt(), kind, fields)
        self._append(lambda: append_event(self.path, event))

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return read_events(self.path)

    def attempts(self) -> list[Attempt]:
        """Return all attempts, oldest first."""
        return read_attempts(self.path)

    def current_attempt(self) -> int:
        """Return the number of the newest attempt; 0 before the first."""
        return count_attempts(self.path)

    def begin_attempt(self, config: RunConfig, processes: list[str], nodes: list[str]) -> int:
        """Note the start of a life of the processes (host:pid and node by rank); returns its number.

        A life before it that never noted its end was killed: what is known of that is filled in, and the files that it
        was writing are removed.
        """
        remove_abandoned(self.path)
        self.close_attempt()
        attempts = self.attempts()
        begun = Attempt(
            attempt=len(attempts) + 1,
            world_size=config.resources.workers,
            zero_stage=config.execution.zero_stage,
            processes=processes,
            nodes=nodes,
            started=datetime.now(UTC),
        )
        write_attempts(self.path, [*attempts, begun])
        return begun.attempt

    def take_up(self, step: int) -> None:
        """Note the step that the newest attempt goes on from; what was finished beyond it is lost and taken again."""
        lost = metrics.taken_after(self.path, step)
        attempts = []
        for attempt in self.attempts():
            num_steps, seconds = lost.get(attempt.attempt, (0, 0.0))
            lost_seconds = round(attempt.lost_seconds + seconds, 3)
            attempts.append(replace(attempt, lost_steps=attempt.lost_steps + num_steps, lost_seconds=lost_seconds))
        resumed, down_seconds = datetime.now(UTC), 0.0
        attempts[-1] = replace(attempts[-1], from_step=step, resumed=resumed)
        if len(attempts) > 1 and attempts[-2].ended is not None:
            down_seconds = round((resumed - attempts[-2].ended).total_seconds(), 3)
        write_attempts(self.path, attempts)
        step_logs.rewind(self.path, step)
        self.event(
            "resumed",
            step=step,
            world_size=attempts[-1].world_size,
            lost_steps=sum(number for number, _ in lost.values()),
            lost_seconds=round(sum(seconds for _, seconds in lost.values()), 3),
            down_seconds=down_seconds,
        )

    def end_attempt(self, outcome: str, reason: str | None = None) -> None:
        """Note how the newest attempt ended itself: finished, preempted or interrupted."""
        self._renew(ended=datetime.now(UTC), outcome=outcome, reason=reason, reached_step=self.last_step())

    def close_attempt(self) -> Attempt | None:
        """Note the death of the newest attempt, unless it has an end; returns it, None without attempts."""
        attempts = self.attempts()
        if attempts and attempts[-1].ended is None:
            dead = with_cause_of_death(attempts[-1], self.events())
            ended = self._last_sign_of_life(dead)
            attempts[-1] = replace(dead, ended=ended, reached_step=self.last_step())
            write_attempts(self.path, attempts)
        return attempts[-1] if attempts else None

    def mark_final(self) -> None:
        """Note that the run stops after the newest attempt until a person goes on."""
        attempts = self.attempts()
        if attempts and not attempts[-1].is_final:
            self._renew(is_final=True)

    def last_step(self) -> int:
        """Return the last step that was taken; 0 before the first."""
        return metrics.last_step_and_time(self.path)[0]

    def has_gained(self) -> bool:
        """Whether the newest attempt has taken a step beyond those that it began with."""
        newest = self.attempts()[-1:]
        return bool(newest) and self.last_step() > (newest[0].from_step or 0)

    def since(self, step: int) -> tuple[int, float]:
        """Return how many steps were finished after `step`, and the seconds that they took."""
        numbers = metrics.taken_after(self.path, step).values()
        return sum(number for number, _ in numbers), round(sum(seconds for _, seconds in numbers), 3)

    def sync_logs(self) -> None:
        """Make the logs of steps durable, so that no checkpoint outlives the lines of its steps."""
        error = self._write_waiting()
        if error is not None:
            raise error
        step_logs.sync_step_logs(self.path)

    def attention_backend(self, device_name: str) -> str | None:
        """Return the attention kernel that was measured to be the fastest on a device; None before."""
        path = self.path / layout.ATTENTION_BACKEND
        with file_errors(path):
            record = json.loads(path.read_text()) if path.exists() else {}
        return str(record["backend"]) if record.get("device") == device_name else None

    def record_attention_backend(self, device_name: str, backend: str, milliseconds: Mapping[str, float]) -> None:
        """Note which kernel was the fastest on a device, and how long each took."""
        record = {"device": device_name, "backend": backend, "milliseconds": milliseconds}
        with file_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / layout.ATTENTION_BACKEND, record)

    def wandb_id(self, new: str) -> str:
        """Return the id of the run at Weights & Biases; `new` becomes it where there is none."""
        path = self.path / layout.WANDB_ID
        with file_errors(path):
            if not path.exists():
                write_text(path, new)
            return path.read_text().strip()

    def forget_wandb_id(self, original: "RunDirectory") -> None:
        """Drop the id that came with a copy of another run; the two would write to one place."""
        own, other = self.path / layout.WANDB_ID, original.path / layout.WANDB_ID
        with file_errors(own):
            if own.exists() and other.exists() and own.read_text() == other.read_text():
                own.unlink()

    def abandon_beyond(self, step: int) -> Path:
        """Keep what the logs hold beyond `step`, and the id at Weights & Biases; returns where they lie.

        The logs themselves are cut when the next attempt takes up its step.
        """
        parent = self.path / layout.ABANDONED
        with file_errors(self.path):
            folder = parent / f"{sum(1 for _ in parent.glob('[0-9]*')) + 1:04d}"
            folder.mkdir(parents=True)
            step_logs.keep_beyond(self.path, step, folder)
            if (self.path / layout.WANDB_ID).exists():
                (self.path / layout.WANDB_ID).rename(folder / layout.WANDB_ID)
        return folder

    def record_origin(self, source: str, step: int, weights_sha256: str, tokenizer_sha256: str | None) -> None:
        """Note whose weights the run begins with."""
        origin = {
            "source": source,
            "step": step,
            "weights_sha256": weights_sha256,
            "tokenizer_sha256": tokenizer_sha256,
        }
        with file_errors(self.path):
            write_json(self.path / layout.BEGUN_FROM, origin)

    def origin(self) -> dict[str, Any] | None:
        """Return whose weights the run began with; None where they were drawn."""
        path = self.path / layout.BEGUN_FROM
        with file_errors(path):
            return dict(json.loads(path.read_text())) if path.exists() else None

    def _append(self, append: Callable[[], None]) -> None:
        with self._lock:
            was_waiting = bool(self._waiting)
            self._waiting.append(append)
            error = self._write_waiting()
            if error is not None and not was_waiting:
                _warn(
                    f"{error} Lines of logs wait in memory and are tried again with every later one; the run goes on."
                )
            elif error is None and was_waiting:
                _warn(f"{self.path}: the lines of logs that waited in memory are written")

    def _write_waiting(self) -> RunDirectoryError | None:
        """Write the lines that wait; returns why one of them could not be written."""
        with self._lock:
            while self._waiting:
                try:
                    self._waiting[0]()
                except RunDirectoryError as error:
                    return error
                self._waiting.popleft()
        return None

    def _renew(self, **changes: Any) -> None:
        attempts = self.attempts()
        write_attempts(self.path, [*attempts[:-1], replace(attempts[-1], **changes)])

    def _last_sign_of_life(self, attempt: Attempt) -> datetime:
        step_times = metrics.last_step_and_time(self.path)[1]
        seen = [
            datetime.fromisoformat(e["time"]) for e in last_events(self.path) if e.get("attempt") == attempt.attempt
        ]
        seen += [step_times[attempt.attempt]] if attempt.attempt in step_times else []
        return max([attempt.started, *seen])


def _warn(message: str) -> None:
    warnings.warn(message, SisaScaleWarning, stacklevel=4)
