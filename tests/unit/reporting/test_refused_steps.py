"""The report of a run with refused steps, from the events that the guard leaves."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sisa_scale.reporting.refused_steps import refused_sentence, refused_series
from sisa_scale.runs.attempts import read_attempts, write_attempts
from sisa_scale.runs.files import read_run
from sisa_scale.runs.logs.events import append_event, new_event

WriteRun = Callable[..., Path]


def note(run_dir: Path, attempt: int, kind: str, **fields: object) -> None:
    append_event(run_dir, new_event(attempt, kind, fields))


def spoil(run_dir: Path, *steps: int) -> None:
    """Make steps of the log refused ones."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] in steps:
            line.update(loss=None, skipped=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_series_is_told_with_what_the_guard_did(write_run: WriteRun) -> None:
    run_dir = write_run()  # attempt 2 goes on from step 40
    for step in (7, 8):
        note(run_dir, 1, "step_skipped", step=step, reason=f"loss {math.nan} is not finite")
    for step in (50, 51, 52):
        note(run_dir, 1, "step_skipped", step=step, reason=f"gradient_norm {step} is above 9")
    note(run_dir, 1, "rollback", step=52, reason="3 in a row", after_rollback="skip_data")
    note(run_dir, 2, "resumed", step=40, world_size=2, lost_steps=12, lost_seconds=1.0, down_seconds=1.0)
    note(run_dir, 2, "step_skipped", step=60, reason="loss inf is not finite")
    spoil(run_dir, 7, 8, 20, 60)  # 20 has no event: the trunk of a branch took it
    attempts = read_attempts(run_dir)
    attempts[1] = replace(attempts[1], outcome="failed", is_final=True, reached_step=60)
    write_attempts(run_dir, attempts)

    series = refused_series(read_run(run_dir))
    found = [(each.attempt, each.first, each.last, each.reason, each.after) for each in series]
    assert found == [
        (1, 7, 8, "loss nan is not finite", "the guard skipped them; the run went on"),
        (1, 20, 20, "loss not finite", "the guard skipped them; the run went on"),
        (
            1, 50, 52, "gradient_norm 50 is above 9; and 2 other findings",
            "the guard skipped them, then went back to step 40; their data is left out",
        ),
        (2, 60, 60, "loss inf is not finite", "the guard skipped them, then gave the run up"),
    ]  # fmt: skip
    run = read_run(run_dir)
    assert refused_sentence(refused_series(run), run.events) == "7 steps in 4 series; 1 rollback."


def test_a_run_without_any_says_nothing_of_it(write_run: WriteRun) -> None:
    run_dir = write_run()
    assert refused_series(read_run(run_dir)) == []
    note(run_dir, 2, "step_skipped", step=45, reason="loss nan is not finite")
    spoil(run_dir, 45)
    run = read_run(run_dir)
    assert refused_sentence(refused_series(run), run.events) == "1 step in one series."
