"""The goodput ledger as stacked bars: the whole run, and its last attempts."""

from datetime import timedelta

from matplotlib.ticker import PercentFormatter

from sisa_scale.reporting.goodput import CATEGORIES, Ledger, Spent, ledger
from sisa_scale.reporting.style import GRID, INK, MUTED, SERIES, new_figure, to_svg
from sisa_scale.runs.files import Run

_MOST_ATTEMPTS = 8
_LEAST_LABELLED = 0.06
_COLORS = dict(
    zip(CATEGORIES, (SERIES[2], SERIES[5], SERIES[0], SERIES[3], MUTED, SERIES[1], SERIES[4], GRID), strict=True)
)
_PALE = ("other", "restart", "data_wait")
_NAMES = {"data_wait": "waiting for data", "lost": "lost steps"}


def run_ledger(run: Run) -> Ledger:
    """Return the ledger of a run as far as its files tell."""
    sums: dict[int, tuple[float, float]] = {}
    for row in run.steps:
        steps, wait = sums.get(row.attempt, (0.0, 0.0))
        sums[row.attempt] = steps + row.step_seconds, wait + (row.data_wait_seconds or 0.0)
    last = max([attempt.ended or attempt.started for attempt in run.attempts], default=None)
    if run.steps and (last is None or run.steps[-1].time.astimezone() > last.astimezone()):
        last = run.steps[-1].time
    return ledger(run.attempts, sums, run.events, last) if last is not None else Ledger(())


def goodput_figure(run: Run) -> str | None:
    """Share of worker time by what it was spent on; None for a run without attempts."""
    book = run_ledger(run)
    if not sum(book.worker_hours.values()):
        return None
    shown = book.attempts[-_MOST_ATTEMPTS:] if len(book.attempts) > 1 else ()
    bars = [(_whole(book), book.shares), *((_label(spent, run), _shares(spent)) for spent in shown)]
    figure, axes = new_figure("Where the time went", "share of worker time", "", height=1.7 + 0.36 * len(bars))
    for row, (_, shares) in enumerate(bars):
        left = 0.0
        for name in CATEGORIES:
            share = shares[name]
            label = _NAMES.get(name, name) if row == 0 and share else None
            axes.barh(row, share, left=left, height=0.66, color=_COLORS[name], label=label, linewidth=0)
            if share >= _LEAST_LABELLED:
                color = INK if name in ("other", "restart", "data_wait") else "#ffffff"
                axes.text(
                    left + share / 2, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color
                )
            left += share
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", colors=INK)
    axes.spines["bottom"].set_color(MUTED)
    look = {"fontsize": 8.5, "frameon": False, "labelcolor": INK, "handlelength": 0.9}
    figure.legend(ncols=4, loc="outside lower center", **look)
    return to_svg(figure, f"goodput {run.path}")


def _whole(book: Ledger) -> str:
    return f"whole run, {sum(book.worker_hours.values()):,.3g} worker-hours"


def _label(spent: Spent, run: Run) -> str:
    outcome = next((a.outcome for a in run.attempts if a.attempt == spent.attempt), None) or "open"
    return f"attempt {spent.attempt}, {timedelta(seconds=round(sum(spent.seconds.values())))}, {outcome}"


def _shares(spent: Spent) -> dict[str, float]:
    total = sum(spent.seconds.values())
    return {name: seconds / total if total else 0.0 for name, seconds in spent.seconds.items()}
