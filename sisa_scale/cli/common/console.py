"""What commands share: consoles, tables or JSON, and a progress line for a run."""

import json
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sisa_scale.cli.common.terminal import Terminal
from sisa_scale.config.batches import GlobalBatches
from sisa_scale.runs.logs.metrics import StepFeed, StepRow

console = Console(highlight=False, file=cast(IO[str], Terminal()))
if not console.is_terminal:
    console.width = 160  # into a file or a pipe: no terminal to fit
_SMOOTHED_LOOKS = 300  # a minute of them, or longer where steps are slow
_PLAIN_SECONDS = 10.0  # between lines when the output is no terminal


def announce(text: str) -> None:
    """Print a line of what happens."""
    console.print(f"[dim]·[/dim] {escape(text)}", soft_wrap=True)


def render(rows: Sequence[dict[str, Any]], *, as_json: bool, title: str | None = None, value: Any = None) -> None:
    """Print rows as a table, or `value` (the rows, if it is None) as JSON."""
    if as_json:
        click.echo(json.dumps(rows if value is None else value, indent=2))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        is_number = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(cell)) for cell in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class RunProgress:
    """A live line for a run, read from its directory: step, loss, tokens/s, MFU, ETA.

    What is left is measured in tokens: the steps of a ramp are not of one size.
    """

    def __init__(self, run_dir: Path, batches: GlobalBatches, total_steps: int) -> None:
        self.total_steps, self._tokens_before = total_steps, batches.tokens_before
        self._feed = StepFeed(run_dir)
        self._printed = 0.0
        self._seen: deque[StepRow] = deque(maxlen=_SMOOTHED_LOOKS)
        self._bar = Progress(
            TextColumn("step {task.fields[steps]}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def update(self) -> None:
        """Read what is new and redraw."""
        row = self._feed.newest()
        if row is None:
            return
        self._seen.append(row)
        loss = f"{row.loss:.4f}" if math.isfinite(row.loss) else "not finite"
        text = f"loss {loss}  {row.tokens_per_second:,.0f} tok/s"
        if row.mfu is not None:
            text += f"  MFU {100 * row.mfu:.1f}%"
        steps, tokens = f"{row.step}/{self.total_steps}", self._tokens_before(row.step)
        is_last = row.step == self.total_steps
        if not console.is_terminal:
            if is_last or time.monotonic() - self._printed > _PLAIN_SECONDS:
                self._printed = time.monotonic()
                eta = (self._tokens_before(self.total_steps) - tokens) * self._seconds_per_token(row)
                console.print(f"step {steps}  {text}  eta {eta:.0f} s", soft_wrap=True)
            return
        if self._task is None:
            total = self._tokens_before(self.total_steps)
            self._task = self._bar.add_task("train", total=total, completed=tokens, text=text, steps=steps)
            self._bar.start()
        self._bar.update(self._task, completed=tokens, text=text, steps=steps)

    def _seconds_per_token(self, row: StepRow) -> float:
        """Return how long a token took of late, with the saves and evaluations in between."""
        first = self._seen[0]
        if row.step <= first.step or row.attempt != first.attempt:
            return row.step_seconds / (self._tokens_before(row.step) - self._tokens_before(row.step - 1))
        tokens = self._tokens_before(row.step) - self._tokens_before(first.step)
        return (row.time - first.time).total_seconds() / tokens

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.update()
        self._bar.stop()
