"""A run's status as a page for a terminal, and as JSON."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sisa_scale.cli.common.console import console
from sisa_scale.reporting.goodput import CATEGORIES, Ledger
from sisa_scale.reporting.status import CheckpointStatus, Status
from sisa_scale.runs.attempts import Attempt

STYLES = {
    "running": "bold green",
    "starting": "bold yellow",
    "finished": "bold blue",
    "preempted": "bold yellow",
    "interrupted": "bold yellow",
    "rolled_back": "yellow",
    "silent": "bold red",
    "failed": "bold red",
}
_RESUMABLE = ("preempted", "interrupted", "failed", "silent", "not started")
_NAMES = {
    "compute": "compute",
    "data_wait": "waiting for data",
    "checkpoint": "checkpoint stall",
    "evaluation": "evaluation",
    "profile": "profiling",
    "lost": "lost steps",
    "restart": "start and restart",
    "other": "other",
}
_BAR_CELLS = 30
_MOST_ATTEMPTS = 10


def print_status(status: Status) -> None:
    """Print the page."""
    style = STYLES.get(status.state, "bold")
    console.print(
        f"[bold]{escape(status.name)}[/bold]  [{style}]{status.state}[/{style}]  [dim]{escape(status.path)}[/dim]"
    )
    console.print(f"  {escape(status.doing)}")
    console.print(f"  {progress_line(status)}")
    console.print(f"  {_checkpoint(status.checkpoint)}", soft_wrap=True)
    for warning in status.warnings:
        console.print(f"  [yellow]! {escape(warning)}[/yellow]", soft_wrap=True)
    if status.attempts:
        console.print(_attempts(status.attempts, status.goodput))
        console.print(_goodput(status.goodput))
    for time, words in status.latest:
        console.print(f"  [dim]{clock(time)}[/dim]  {escape(words)}")
    if status.state in _RESUMABLE:
        console.print(f"  next: [bold]sisa-scale resume {escape(status.path)}[/bold]", soft_wrap=True)


def status_json(status: Status) -> dict[str, Any]:
    """Return the status as JSON has it; times are ISO 8601, durations seconds."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(status))
    book = status.goodput
    plain["goodput"] = {
        "seconds": _rounded(book.seconds),
        "worker_hours": _rounded(book.worker_hours),
        "shares": _rounded(book.shares),
        "attempts": [{"attempt": spent.attempt, "seconds": _rounded(spent.seconds)} for spent in book.attempts],
    }
    plain["latest"] = [{"time": time.isoformat(), "text": words} for time, words in status.latest]
    return plain


def progress_line(status: Status) -> str:
    """Return a bar with step, tokens, loss, rate and the time left, as markup."""
    share = status.step / status.total_steps
    filled = round(_BAR_CELLS * share)
    parts = [f"step {status.step:,} of {status.total_steps:,} ({100 * share:.1f} %)", f"{status.tokens:,} tokens"]
    parts += [f"loss {status.loss:.4f}"] if status.loss is not None else []
    parts += [f"{status.tokens_per_second:,.0f} tokens/s"] if status.tokens_per_second is not None else []
    parts += [f"MFU {100 * status.mfu:.1f} %"] if status.mfu is not None else []
    parts += [f"[bold]{duration(status.eta_seconds)} left[/bold]"] if status.eta_seconds is not None else []
    return f"[green]{'━' * filled}[/green][dim]{'━' * (_BAR_CELLS - filled)}[/dim]  " + "  ".join(parts)


def _checkpoint(checkpoint: CheckpointStatus | None) -> str:
    if checkpoint is None:
        return "[yellow]no checkpoint yet[/yellow]: a failure now would begin the run anew"
    age = f", {duration(checkpoint.seconds_old)} old" if checkpoint.seconds_old is not None else ""
    checked = "every checksum compared" if checkpoint.is_verified else "manifest and sizes checked"
    size = (
        f"{checkpoint.num_bytes / 1e9:,.2f} GB"
        if checkpoint.num_bytes >= 1e8
        else f"{checkpoint.num_bytes / 1e6:.1f} MB"
    )
    return f"checkpoint of step {checkpoint.step:,}{age}, {size}, {checked}  [dim]{escape(checkpoint.location)}[/dim]"


def _attempts(attempts: Any, book: Ledger) -> Table:
    hidden = max(0, len(attempts) - _MOST_ATTEMPTS)
    title = "attempts" + (f" (the first {hidden} are left out)" if hidden else "")
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=True)
    for name in ("#", "began", "lasted", "workers", "from", "to", "lost steps", "lost time", "end", "why"):
        is_text = name in ("began", "end", "why")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=name != "why")
    seconds = {spent.attempt: spent.seconds for spent in book.attempts}
    for attempt in attempts[hidden:]:
        table.add_row(*_attempt(attempt, seconds[attempt.attempt]))
    return table


def _attempt(attempt: Attempt, seconds: Any) -> list[Text | str]:
    outcome = attempt.outcome or "open"
    lasted = sum(seconds.values()) - seconds["restart"]
    lost_seconds = attempt.lost_seconds or 0.0
    return [
        str(attempt.attempt),
        clock(attempt.started),
        duration(lasted),
        str(attempt.world_size),
        "-" if attempt.from_step is None else f"{attempt.from_step:,}",
        "-" if attempt.reached_step is None else f"{attempt.reached_step:,}",
        f"{attempt.lost_steps:,}" if attempt.lost_steps else "-",
        duration(lost_seconds) if lost_seconds else "-",
        Text(outcome, style=STYLES.get(outcome, "")),
        Text(attempt.reason or ""),
    ]


def _goodput(book: Ledger) -> Table:
    table = Table(title="where the time went", title_justify="left", title_style="bold", header_style="dim", box=None)
    for name, justify in (("", "left"), ("share", "right"), ("time", "right"), ("worker-hours", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    seconds, hours, shares = book.seconds, book.worker_hours, book.shares
    for name in CATEGORIES:
        bar = Text("█" * round(_BAR_CELLS * shares[name]), style="green" if name == "compute" else "yellow")
        table.add_row(_NAMES[name], f"{100 * shares[name]:.1f} %", duration(seconds[name]), f"{hours[name]:,.3g}", bar)
    return table


def duration(seconds: float | None) -> str:
    """Return seconds in words, a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 2 * 86400:
        return str(timedelta(seconds=round(seconds)))
    return f"{seconds / 86400:,.1f} days"


def clock(time: datetime) -> str:
    """Return a time of day of this machine's zone."""
    return time.astimezone().strftime("%m-%d %H:%M:%S")


def _rounded(values: Any) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value
