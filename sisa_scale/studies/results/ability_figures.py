"""Figures of a study about what its trials can do: accuracy over cost, when it was learned, and loss by position."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sisa_scale.reporting.style import INK, MUTED, error_points, legend
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow
from sisa_scale.scaling.figures.plot import Plot, color, finish, log_scale, panels, tick
from sisa_scale.studies.directory import Planned
from sisa_scale.studies.results.abilities import THRESHOLDS, Reached, accuracies, first_reached
from sisa_scale.studies.results.cost import CostAxis

_BY_POSITION = re.compile(r"upto_(\d+)")
_PANEL_INCHES, _ROW_INCHES = 3.1, 0.24


@dataclass(frozen=True, slots=True)
class TrialRun:
    """A trial and what its run directory says."""

    trial: Planned
    run: Run

    @property
    def architecture(self) -> str:
        """Name of its architecture."""
        return str(self.trial.values["architecture"])

    @property
    def size(self) -> str:
        """Name of its size."""
        return str(self.trial.values["size"])

    @property
    def branch_step(self) -> int:
        """The last step that is another trial's; 0 where it is no branch."""
        return int(self.trial.values["branch_step"])


def ability_plots(trials: Sequence[TrialRun], axis: CostAxis) -> list[Plot]:
    """Return all figures that the evaluations of the trials allow."""
    names = list(dict.fromkeys(name for one in trials for name in accuracies(one.run)))
    plots = [_accuracy(name, trials, axis) for name in names]
    if names:
        plots.append(_when_learned(names, trials, axis))
    by_position = _loss_by_position(trials)
    return plots if by_position is None else [*plots, by_position]


def _accuracy(name: str, trials: Sequence[TrialRun], axis: CostAxis) -> Plot:
    """Accuracy over cost, a panel for each size: lines of architectures, dots alone for branches."""
    shown, paint = [one for one in trials if name in accuracies(one.run)], _colors(trials)
    sizes = list(dict.fromkeys(one.size for one in shown))
    titles = [(f"Size {size}", axis.label, f"{_title(name)} (%)") for size in sizes]
    figure, axes = panels(titles, min(2, len(sizes)), row_inches=_PANEL_INCHES)
    rows = []
    for one in shown:
        panel = axes[sizes.index(one.size)]
        scores = [row for row in accuracies(one.run)[name] if row.step > one.branch_step]
        cost = axis.of(one.trial, one.run, [row.step for row in scores])
        error_points(panel, cost.tolist(), scores, color=paint[one.architecture])
        if not one.branch_step:
            _line(panel, cost.tolist(), scores, one.architecture, paint)
        rows += [
            {"trial": one.trial.name, "step": row.step, axis.kind: at, "percent": row.value, "se": row.standard_error}
            for row, at in zip(scores, cost, strict=True)
        ]
    for panel in axes:
        for threshold in THRESHOLDS:
            panel.axhline(threshold, color=MUTED, linewidth=0.7, linestyle=(0, (2, 3)))
        _write_costs(panel, axis)
        panel.set_ylim(-3, 103)
        legend(panel)
    caption = (
        f"Accuracy with one standard error, over {axis.label}. Lines: a seed's longest run of a size; dots: "
        f"branches after their cooldown began. Dotted: {' and '.join(map(str, THRESHOLDS))} %."
    )
    return finish(f"accuracy_{name}", figure, rows, caption)


def _when_learned(names: Sequence[str], trials: Sequence[TrialRun], axis: CostAxis) -> Plot:
    """When each trial was first measured at a threshold: a bar from the evaluation before to that one."""
    whole, paint = [one for one in trials if not one.branch_step], _colors(trials)
    titles = [(f"When it was learned: {_title(name)}", axis.label, "") for name in names]
    figure, axes = panels(titles, 1, row_inches=1.3 + _ROW_INCHES * len(whole))
    rows: list[dict[str, Any]] = []
    for name, panel in zip(names, axes, strict=True):
        for place, one in enumerate(whole):
            for reached in first_reached(accuracies(one.run).get(name, [])):
                low, high = axis.of(one.trial, one.run, [reached.after, reached.step or reached.after]).tolist()
                _draw_reached(panel, place, reached, (low, high), paint[one.architecture])
                row = {"score": name, "trial": one.trial.name, "threshold": reached.threshold}
                row |= {"after_step": reached.after, "step": reached.step or "", f"after_{axis.kind}": low}
                rows.append(row | {axis.kind: high if reached.step else ""})
        panel.set_yticks(range(len(whole)), [one.trial.name for one in whole])
        panel.set_ylim(len(whole) - 0.5, -0.5)
        panel.set_xlim(left=0)
        _write_costs(panel, axis)
    signs = (
        ("o", "none", f"{THRESHOLDS[0]} %"),
        ("o", INK, f"{THRESHOLDS[1]} %"),
        (">", "none", "not reached by then"),
    )
    handles = [
        axes[0].plot([], [], color=INK, marker=marker, markerfacecolor=face, linestyle="", label=label)[0]
        for marker, face, label in signs
    ]
    figure.legend(
        handles=handles, fontsize=8.5, frameon=False, labelcolor=INK, loc="outside lower center", ncols=len(signs)
    )
    caption = (
        "The first evaluation at which an accuracy was at a threshold or above, with a bar back to the one before: the "
        "truth lies between. An accuracy may fall again later. Branches are left out; they share their trunk's steps."
    )
    return finish("when_learned", figure, rows, caption)


def _draw_reached(panel: Axes, place: int, reached: Reached, span: tuple[float, float], paint: str) -> None:
    is_half = reached.threshold == THRESHOLDS[0]
    y = place + (-0.16 if is_half else 0.16)
    marker, face = ">" if reached.step is None else "o", "none" if is_half else paint
    panel.plot(span, [y, y], color=paint, linewidth=1.2)
    panel.plot(span[1:], [y], color=paint, marker=marker, markersize=5, markerfacecolor=face, clip_on=False)


def _loss_by_position(trials: Sequence[TrialRun]) -> Plot | None:
    """Held-out loss over the tokens before a target, of the longest trial of each architecture, size and seed."""
    found = [(one, rows) for one in trials if not one.branch_step and (rows := _positions(one.run))]
    if not found:
        return None
    sizes, paint = list(dict.fromkeys(one.size for one, _ in found)), _colors(trials)
    x_label, y_label = "tokens before the target, at most", "loss (nats per token)"
    titles = [(f"Size {size}", x_label, y_label) for size in sizes]
    figure, axes = panels(titles, min(2, len(sizes)), row_inches=_PANEL_INCHES)
    table = []
    for one, rows in found:
        panel, places = axes[sizes.index(one.size)], sorted(rows)
        scores = [rows[place] for place in places]
        _line(panel, places, scores, one.architecture, paint)
        error_points(panel, places, scores, color=paint[one.architecture])
        table += [
            {"trial": one.trial.name, "tokens_before": place, "loss": row.value, "se": row.standard_error}
            for place, row in zip(places, scores, strict=True)
        ]
    for panel in axes:
        log_scale(panel, "x", "number")
        legend(panel)
    caption = "Held-out loss with one standard error by the tokens before a target: over half of the number, up to it."
    return finish("loss_by_position", figure, table, caption)


def _positions(run: Run) -> dict[int, ScoreRow]:
    """Return the losses by position of the last evaluation."""
    rows = [row for row in run.scores if row.task == "position-loss" and row.value is not None]
    last = max((row.step for row in rows), default=0)
    return {int(at[1]): row for row in rows if row.step == last and (at := _BY_POSITION.fullmatch(row.metric))}


def _line(panel: Axes, x: Sequence[float], scores: Sequence[ScoreRow], name: str, paint: dict[str, str]) -> None:
    """Draw a line; the name of an architecture stands in the legend once."""
    label = None if name in panel.get_legend_handles_labels()[1] else name
    values = [float(row.value or 0.0) for row in scores]
    panel.plot(x, values, color=paint[name], linewidth=1.3, label=label)


def _colors(trials: Sequence[TrialRun]) -> dict[str, str]:
    return {name: color(i) for i, name in enumerate(dict.fromkeys(one.architecture for one in trials))}


def _write_costs(panel: Axes, axis: CostAxis) -> None:
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, axis.scale) if value else "0"))


def _title(name: str) -> str:
    return name.replace("_", " ")
