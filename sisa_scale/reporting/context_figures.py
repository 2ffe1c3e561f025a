"""The figure of a run about context: how well facts are found again over the length of the text they stand in."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from sisa_scale.reporting.style import INK, SERIES, error_points, new_figure, to_svg
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow

_AT_LENGTH = re.compile(r"exact_match_(\d+)")
_CHANCE = "chance"
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))


class _Curve(NamedTuple):
    """Scores of a task by length. how: what of the positions was set otherwise than in the run."""

    task: str
    how: str
    by_length: dict[int, ScoreRow]
    chance: float | None


def context_curve_figure(run: Run) -> str | None:
    """Accuracy over the length of the context, from the newest scores: of the run, and measured later."""
    curves = list(_curves(run))
    if not curves:
        return None
    figure, axes = new_figure("Facts found again", "context (tokens)", "whole answer right (%)", height=4.2)
    tasks, ways = (list(dict.fromkeys(names)) for names in zip(*((curve[:2]) for curve in curves), strict=True))
    for curve in curves:
        _draw(axes, curve, tasks.index(curve.task), ways.index(curve.how))
    trained = run.config.get("data", {}).get("sequence_tokens")
    if trained is not None:
        axes.axvline(trained, color=INK, alpha=0.5, linewidth=0.9, linestyle=(0, (5, 3)), label="trained length")
    if any(curve.chance for curve in curves):
        axes.plot([], [], color=INK, linewidth=0.9, linestyle=(0, (1, 3)), label="a guess among the values in the text")
    lengths = sorted({length for curve in curves for length in curve.by_length})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-3, 103)
    figure.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="outside lower center", ncols=2, handlelength=2.4)
    return to_svg(figure, f"context {run.path}")


def _draw(axes: Axes, curve: _Curve, task: int, way: int) -> None:
    color, lengths = SERIES[task % len(SERIES)], sorted(curve.by_length)
    rows = [curve.by_length[length] for length in lengths]
    label = f"{curve.task}, {curve.how}" if curve.how else curve.task
    values = [float(row.value or 0.0) for row in rows]
    axes.plot(lengths, values, color=color, linewidth=1.5, linestyle=_DASHES[way % len(_DASHES)], label=label)
    error_points(axes, lengths, rows, color=color)
    if curve.chance:
        axes.plot(lengths, [curve.chance] * len(lengths), color=color, linewidth=0.9, linestyle=(0, (1, 3)))


def _curves(run: Run) -> Iterable[_Curve]:
    """Return the newest scores of each task and each way of scaling positions."""
    last = max((row.step for row in run.scores), default=0)
    found = dict[tuple[str, str], dict[str, ScoreRow]]()
    measured = [("", [row for row in run.scores if row.step == last])]
    measured += [
        (f"rope {later.rope_scaling}" if later.rope_scaling else "measured later", list(later.scores))
        for later in run.later
    ]
    for how, scores in measured:
        for task in dict.fromkeys(row.task for row in scores if _AT_LENGTH.fullmatch(row.metric)):
            found[task, how] = {row.metric: row for row in scores if row.task == task and row.value is not None}
    for (task, how), rows in found.items():
        by_length = {int(at[1]): row for metric, row in rows.items() if (at := _AT_LENGTH.fullmatch(metric))}
        if len(by_length) > 1:
            chance = rows[_CHANCE].value if _CHANCE in rows else None
            yield _Curve(task, how, by_length, chance)
