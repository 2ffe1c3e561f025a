"""Print where the time went from a submission to the end of the first step, for finished or running run directories.

    python tools/startup_times.py runs/a runs/b

Read from what the run itself has noted, so it costs nothing and works for any run on any target. The seconds of a
line in a job's log are whole ones, so `queue` and `Ray start` under Slurm are accurate to a second. A target that does
not note a point (a local run is not submitted) leaves the column empty, and the next one holds its time.
"""

import argparse
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from sisa_scale.cli.common.console import render
from sisa_scale.runs.attempts import read_attempts
from sisa_scale.runs.files import read_run
from sisa_scale.runs.logs.events import read_events

_LOG_LINE = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \[job \d+\] (.*)$", re.M)
_PHASES = (
    ("queue", "the job begins"),
    ("Ray start", "the command of the run begins"),
    ("driver and workers", "imports, placement, process group"),
    ("model and data", "built, data opened, checkpoint looked for"),
    ("first step", "compilation included"),
)


def main() -> None:
    """Print one row for each run directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rows = [{"run": str(run_dir), **startup_seconds(run_dir)} for run_dir in arguments.run_dirs]
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    render(shown, as_json=arguments.json, title="seconds from submission to the end of the first step", value=rows)


def startup_seconds(run_dir: Path) -> dict[str, Any]:
    """Return the seconds of every phase of the first attempt of a run, and their sum."""
    first = read_attempts(run_dir)[0]
    launch = next((event for event in read_events(run_dir) if event["event"] == "launch"), None)
    submission, log = run_dir / "jobs/0001/submission.json", run_dir / "jobs/0001/output.log"
    times = [
        datetime.fromisoformat(json.loads(submission.read_text())["submitted"]) if submission.exists() else None,
        _first_line(log, "start "),
        datetime.fromisoformat(launch["time"]) if launch else None,
        first.started,
        first.resumed,
        read_run(run_dir).steps[0].time,
    ]
    row: dict[str, Any] = {}
    before = times[0]
    for (name, _), time in zip(_PHASES, times[1:], strict=True):
        row[name] = round((time - before).total_seconds(), 1) if time and before else None
        before = time or before
    row["all"] = round(sum(seconds for seconds in row.values() if seconds is not None), 1)
    return row


def _first_line(log: Path, words: str) -> datetime | None:
    for time, text in _LOG_LINE.findall(log.read_text()) if log.exists() else ():
        if text.startswith(words):
            return datetime.fromisoformat(time).astimezone()
    return None


if __name__ == "__main__":
    main()
