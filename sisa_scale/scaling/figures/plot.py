"""What the figures of this room share: a plot with its data as CSV, axes for compute and counts, colours."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sisa_scale.reporting.style import SERIES, WIDTH_INCHES, dress, to_svg
from sisa_scale.reporting.summary import compact

_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: file name without ending, SVG element for HTML, CSV of what it shows, and what there is to see."""

    name: str
    svg: str
    csv: str
    caption: str

    @property
    def standalone_svg(self) -> str:
        """The SVG as a file of its own."""
        return '<?xml version="1.0" encoding="utf-8"?>\n' + self.svg.replace("<svg", f"<svg {_NAMESPACES}", 1)


def finish(name: str, figure: Figure, rows: Sequence[Mapping[str, Any]], caption: str) -> Plot:
    """Return the plot of a figure and its data."""
    return Plot(name, to_svg(figure, name), csv_text(rows), caption)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; all keys of all rows are columns, numbers have 10 digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return buffer.getvalue()


def panels(
    titles: Sequence[tuple[str, str, str]],
    columns: int,
    *,
    row_inches: float = 2.9,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one dressed panel for each (title, x label, y label). ratios: of the heights of rows."""
    num_rows = -(-len(titles) // columns)
    figure = Figure(figsize=(WIDTH_INCHES, row_inches * num_rows), layout="constrained")
    FigureCanvasSVG(figure)
    found = list(figure.subplots(num_rows, columns, squeeze=False, height_ratios=ratios).ravel())
    for axes, (title, x_label, y_label) in zip(found, titles, strict=False):
        dress(axes, title, x_label, y_label)
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in found[len(titles) :]:
        axes.set_visible(False)
    return figure, found[: len(titles)]


def log_scale(axes: Axes, which: str, kind: str, *, is_narrow: bool = False) -> None:
    """Make an axis logarithmic, unless it is a y axis of a short range.

    kind: `flops` as 1e18, `count` as 10M, `number` as it is.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    decades = np.log10(high / low)
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, kind)))
    if decades < 0.7 and which == "y":
        return  # linear ticks say more over so short a range
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    is_wide = decades > (1.2 if is_narrow else 2.5)
    subs = (1.0,) if is_wide else (1.0, 2.0, 5.0) if decades > 0.5 else tuple(np.arange(1.0, 10.0))
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, kind)))
    axis.set_minor_locator(NullLocator())


def tick(value: float, kind: str) -> str:
    """Return the text of a tick."""
    if kind == "flops":
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return compact(value) if kind == "count" else f"{value:g}"


def color(index: int) -> str:
    """Return the colour of the architecture or budget with this number."""
    return SERIES[index % len(SERIES)]


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{value:.10g}" if np.isfinite(value) else ""
    return value
