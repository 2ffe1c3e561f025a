"""The logs that have lines of steps: kept so that every step stands in a log once, whatever was taken again."""

from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import DATA_EVENTS, EVALUATIONS, HEALTH, METRICS, MONITORS, SAMPLES
from sisa_scale.runs.logs.jsonl import Line, append_line, read_lines, sync, write_lines

STEP_LOGS = (METRICS, MONITORS, HEALTH, EVALUATIONS, SAMPLES, DATA_EVENTS)


def append_data_event(run_dir: Path, step: int, event: dict[str, Any]) -> None:
    """Note what the data stream says of the step that read it."""
    append_line(run_dir / DATA_EVENTS, {**event, "step": step})


def sync_step_logs(run_dir: Path) -> None:
    """Make the lines durable, so that no checkpoint outlives those of its steps."""
    for log in STEP_LOGS:
        sync(run_dir / log)


def rewind(run_dir: Path, step: int) -> None:
    """Drop the lines of steps beyond `step`: they are taken again."""
    for log in STEP_LOGS:
        if (run_dir / log).exists():
            write_lines(run_dir / log, _until(run_dir / log, step))


def keep_beyond(run_dir: Path, step: int, folder: Path) -> None:
    """Copy the lines of steps beyond `step` into a folder; a log without any is left out."""
    for log in STEP_LOGS:
        steps = (line for line in read_lines(run_dir / log) if isinstance(line.get("step"), int))
        lines = [line for line in steps if line["step"] > step]
        if lines:
            write_lines(folder / log, lines)


def copy_until(source: Path, run_dir: Path, step: int, attempt: int) -> None:
    """Copy the lines of another run up to `step`, under the number `attempt`."""
    for log in STEP_LOGS:
        if (source / log).exists():
            lines = _until(source / log, step)
            write_lines(run_dir / log, [line | ({"attempt": attempt} if "attempt" in line else {}) for line in lines])


def _until(path: Path, step: int) -> list[Line]:
    """Return the lines of the steps up to `step`; a line of no step belongs to none of them."""
    return [line for line in read_lines(path) if isinstance(line.get("step"), int) and line["step"] <= step]
