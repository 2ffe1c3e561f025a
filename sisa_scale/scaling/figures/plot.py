"""What the figures of this room share: a plot with its data as CSV, axes for compute and counts, colours."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sisa_scale.reporting.style import INK, SERIES, WIDTH_INCHES, dress, to_svg
from sisa_scale.reporting.summary import compact
from sisa_scale.scaling.csv_text import csv_text

_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: file name without ending, SVG element for HTML, PDF, CSV of what it shows, and what there is to see."""

    name: str
    svg: str
    pdf: bytes
    csv: str
    caption: str

    @property
    def standalone_svg(self) -> str:
        """The SVG as a file of its own."""
        return '<?xml version="1.0" encoding="utf-8"?>\n' + self.svg.replace("<svg", f"<svg {_NAMESPACES}", 1)


def finish(name: str, figure: Figure, rows: Sequence[Mapping[str, Any]], caption: str) -> Plot:
    """Return the plot of a figure and its data."""
    return Plot(name, to_svg(figure, name), to_pdf(figure), csv_text(rows), caption)


def to_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF with its fonts as text; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata=dict.fromkeys(("Creator", "Producer", "CreationDate")))
    return buffer.getvalue()


def legend_below(*panels: Axes) -> None:
    """Draw one legend of all panels under their figure, off the points; what has the same label is named once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if not entries:
        return
    longest = max(map(len, entries))
    columns = 4 if longest < 18 else 2 if longest < 46 else 1
    figure = panels[0].get_figure(root=True)
    assert figure is not None
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower left", ncols=min(len(entries), columns), fontsize=8.5,
         frameon=False, labelcolor=INK, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def legend_beside(axes: Axes, title: str = "") -> None:
    """Draw the legend of one panel of several to its right, off the points."""
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=7.5, frameon=False, labelcolor=INK,
        handlelength=1.6, title=title, title_fontsize=7.5, alignment="left",
    )  # fmt: skip


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
