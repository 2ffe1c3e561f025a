"""Runs that are looked at again and again: a page of one, a table of several."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sisa_scale.cli.common.console import console
from sisa_scale.cli.common.status_page import STYLES, clock, duration, progress_line
from sisa_scale.errors import SisaScaleError
from sisa_scale.reporting.status import RankStatus, Status, read_status
from sisa_scale.runs.layout import find_runs
from sisa_scale.runs.logs.metrics import last_steps

_BARS = "▁▂▃▄▅▆▇█"
_CELLS, _TABLE_CELLS = 60, 16
_RECENT_STEPS = 2000
_MOST_RANKS = 16
_QUIET_SECONDS = 15.0
_SHARE_OF_TIME = 0.1  # of a core that looking may take


@dataclass(frozen=True)
class Look:
    """How a run stands, and the losses of its recent steps."""

    status: Status
    losses: Sequence[float]


# What a table of runs can be sorted by -> the key; what is not known comes last.
ORDERS: dict[str, Callable[[Status], float | str | None]] = {
    "name": lambda status: status.name,
    "state": lambda status: status.state,
    "step": lambda status: -status.step,
    "progress": lambda status: -status.step / status.total_steps,
    "loss": lambda status: status.loss if status.loss is not None and math.isfinite(status.loss) else None,
    "rate": lambda status: None if status.tokens_per_second is None else -status.tokens_per_second,
    "left": lambda status: status.eta_seconds,
    "goodput": lambda status: status.goodput.shares["compute"] or None,
    "attempts": lambda status: -len(status.attempts),
    "memory": lambda status: None if status.peak_memory_bytes is None else -status.peak_memory_bytes,
}


def look(directory: Path, order: str = "name") -> list[Look]:
    """Read a run, or all runs in a directory, in an order of ORDERS; raises ConfigError where there is none."""
    places, looks = find_runs(directory), list[Look]()
    for place in places or [directory]:
        try:
            status = read_status(place)
            steps = last_steps(place, status.step, _RECENT_STEPS)
        except (SisaScaleError, ValueError, KeyError):
            if len(places) <= 1:
                raise
            continue  # one that is just being made, or removed
        looks.append(Look(status, [row.loss for row in steps]))
    key = ORDERS[order]
    known = sorted((one for one in looks if key(one.status) is not None), key=lambda one: key(one.status))  # type: ignore[arg-type, return-value]
    return known + [one for one in looks if key(one.status) is None]


def page(looks: Sequence[Look], *, is_one: bool) -> RenderableType:
    """Return one run as a page, several as a table."""
    return _run(looks[0]) if is_one and len(looks) == 1 else _table(looks)


def watch(directory: Path, order: str, seconds: float) -> None:
    """Draw and redraw until Ctrl-C; once where there is no terminal."""
    is_one = find_runs(directory) == [directory]
    if not console.is_terminal or console.is_dumb_terminal:
        console.print(page(look(directory, order), is_one=is_one))
        return
    drawn: RenderableType = ""
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                started = time.process_time()
                looks = look(directory, order)
                drawn = page(looks, is_one=is_one)
                hint = Text(f"every {seconds:g} s; Ctrl-C ends", style="dim")
                live.update(Group(drawn, hint), refresh=True)
                time.sleep(max(seconds, (time.process_time() - started) / _SHARE_OF_TIME))
    except KeyboardInterrupt:
        console.print(drawn)


def sparkline(values: Sequence[float], cells: int) -> str:
    """Return a curve as `cells` letters at most, each the mean of its stretch; what is not finite is a gap."""
    width = min(cells, len(values))
    stretches = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    finite = [[value for value in stretch if math.isfinite(value)] for stretch in stretches]
    means = [sum(stretch) / len(stretch) if stretch else None for stretch in finite]
    known = [mean for mean in means if mean is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    top = len(_BARS) - 1
    return "".join(" " if m is None else _BARS[round((m - low) / span * top) if span else 0] for m in means)


def _run(one: Look) -> RenderableType:
    status = one.status
    style = STYLES.get(status.state, "bold")
    lines: list[RenderableType] = [
        Text.assemble((_shown(status.name), "bold"), "  ", (status.state, style), "  ", (status.path, "dim")),
        Text(f"  {status.doing}"),
        Text.from_markup(f"  {progress_line(status)}"),
    ]
    finite = [loss for loss in one.losses if math.isfinite(loss)]
    if finite:
        curve = sparkline(one.losses, _CELLS)
        span = f"{max(finite):.4f} to {min(finite):.4f} in {len(one.losses):,} steps"
        lines.append(Text.assemble("  loss  ", (curve, "cyan"), f"  {span}"))
    attempts = f"{len(status.attempts)} attempt{'' if len(status.attempts) == 1 else 's'}"
    facts = [f"goodput {100 * status.goodput.shares['compute']:.1f} %", attempts]
    facts += [f"checkpoint of step {status.checkpoint.step:,}" if status.checkpoint else "no checkpoint yet"]
    facts += [f"peak GPU memory {_gigabytes(status.peak_memory_bytes)}"] if status.peak_memory_bytes else []
    lines.append(Text("  " + "   ".join(facts)))
    lines += [Text(f"  ! {warning}", style="yellow") for warning in status.warnings]
    if status.ranks:
        lines.append(_ranks(status.ranks))
    lines += [Text.from_markup(f"  [dim]{clock(when)}[/dim]  {escape(words)}") for when, words in status.latest]
    return Group(*lines)


def _ranks(ranks: Sequence[RankStatus]) -> Table:
    """Return the ranks, the most silent ones first where there are many."""
    shown = sorted(ranks, key=lambda rank: -rank.seconds_old)[:_MOST_RANKS] if len(ranks) > _MOST_RANKS else ranks
    left = f" (the {_MOST_RANKS} that have been silent longest of {len(ranks)})" if len(ranks) > _MOST_RANKS else ""
    table = Table(title=f"ranks{left}", title_justify="left", title_style="bold", header_style="dim", box=None)
    for name, justify in (("rank", "right"), ("host", "left"), ("does", "left"), ("for", "right"), ("step", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("last sign", justify="right")
    for rank in shown:
        style = "bold red" if rank.seconds_old > _QUIET_SECONDS and rank.phase != "ended" else ""
        cells = (str(rank.rank), rank.host, rank.phase, f"{rank.phase_seconds:.1f} s", f"{rank.step:,}")
        table.add_row(*(Text(cell) for cell in cells), Text(f"{rank.seconds_old:.1f} s ago", style=style))
    return table


def _table(looks: Sequence[Look]) -> Table:
    table = Table(header_style="dim", box=None)
    names = (
        "run",
        "state",
        "step",
        "of",
        "loss",
        "curve",
        "tokens/s",
        "left",
        "goodput",
        "attempts",
        "memory",
        "silent",
    )
    for name in names:
        table.add_column(name, justify="left" if name in ("run", "state", "curve") else "right", no_wrap=name != "run")
    for one in looks:
        status = one.status
        silent = sum(rank.seconds_old > _QUIET_SECONDS for rank in status.ranks) if status.state == "running" else 0
        table.add_row(
            Text(_shown(status.name)),
            Text(status.state, style=STYLES.get(status.state, "")),
            f"{status.step:,}",
            f"{status.total_steps:,}",
            "-" if status.loss is None else f"{status.loss:.4f}",
            Text(sparkline(one.losses, _TABLE_CELLS), style="cyan"),
            "-" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}",
            duration(status.eta_seconds),
            f"{100 * status.goodput.shares['compute']:.0f} %",
            str(len(status.attempts)),
            _gigabytes(status.peak_memory_bytes) if status.peak_memory_bytes else "-",
            Text(str(silent), style="bold red") if silent else "-",
        )
    return table


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _shown(name: str) -> str:
    """Return a name without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
