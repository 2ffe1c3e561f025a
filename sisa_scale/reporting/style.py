"""One look for every figure: sizes, a colour-blind-safe palette, and SVG that follows the page's light or dark scheme.

Figures are drawn with the light palette. In the SVG text each colour becomes a CSS variable with that colour as its
fallback, so the page can redefine them for its dark scheme and a figure on its own still looks right.
"""

import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow

WIDTH_INCHES, HEIGHT_INCHES = 6.4, 3.5
INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
# Okabe and Ito's colours, the yellow left out: it cannot be read on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_RAMP = LinearSegmentedColormap.from_list("layers", ["#0072b2", "#7f6fb0", "#cc79a7", "#e8894a"])
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {color: f"series-{i}" for i, color in enumerate(SERIES, 1)}
_MAX_POINTS = 1200


def new_figure(title: str, x_label: str, y_label: str, *, height: float = HEIGHT_INCHES) -> tuple[Figure, Axes]:
    """Return a figure and its one axes with title, units and house style."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    dress(axes, title, x_label, y_label)
    return figure, axes


def dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give axes their title, labels and the house style."""
    axes.set_title(plain(title), loc="left", fontsize=11, color=INK, pad=10, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    axes.set_ylabel(y_label, fontsize=9, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def error_points(
    axes: Axes, x: Sequence[float], rows: Sequence[ScoreRow], *, color: str, label: str | None = None
) -> None:
    """Draw scores as dots with bars of one standard error."""
    values = np.array([row.value for row in rows], dtype=float)
    errors = np.array([row.standard_error or 0.0 for row in rows])
    axes.errorbar(x, values, errors, color=color, fmt="o", markersize=4, capsize=2, linewidth=1, label=label, zorder=3)


def legend(axes: Axes) -> None:
    """Draw the legend, where anything has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="best", handlelength=1.6)


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic with plain numbers at 1, 2 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if axes.get_ylim()[1] >= 1000 else "{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: no formulas, and a leading underscore does not hide it."""
    escaped = text.replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped


def layer_color(layer: int, num_layers: int) -> str:
    """Return the colour of a layer on a ramp from the first (blue) to the last (orange)."""
    return to_hex(_RAMP(layer / max(1, num_layers - 1)))


def smooth(values: Sequence[float] | np.ndarray, span: int) -> np.ndarray:
    """Return the mean over `span` steps around each step, over fewer at both ends; non-finite values do not count."""
    numbers = np.asarray(values, dtype=float)
    is_finite = np.isfinite(numbers)
    sums = np.concatenate([[0.0], np.cumsum(np.where(is_finite, numbers, 0.0))])
    counts = np.concatenate([[0], np.cumsum(is_finite)])
    position = np.arange(len(numbers))
    first = np.maximum(position - span // 2, 0)
    last = np.minimum(position + (span + 1) // 2, len(numbers))
    num_finite = counts[last] - counts[first]
    return np.where(num_finite > 0, (sums[last] - sums[first]) / np.maximum(num_finite, 1), np.nan)


def smoothing_span(num_steps: int) -> int:
    """Return how many steps a smoothed curve of `num_steps` averages over: a hundredth of them."""
    return max(1, num_steps // 100)


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most about 1200 points that keep the least and greatest value of every stretch."""
    if len(x) <= _MAX_POINTS:
        return x, y
    kept = set()
    for part in np.array_split(np.arange(len(x)), _MAX_POINTS // 2):
        values = np.nan_to_num(y[part], nan=np.inf)
        kept |= {int(part[values.argmin()]), int(part[np.nan_to_num(y[part], nan=-np.inf).argmax()])}
    chosen = np.array(sorted(kept | {0, len(x) - 1}))
    return x[chosen], y[chosen]


def mark_resumes(axes: Axes, run: Run) -> None:
    """A thin line at every step from which an attempt took the run up again."""
    resumes = [row.from_step for row in run.attempts[1:] if row.from_step is not None]
    for index, step in enumerate(resumes):
        axes.axvline(step, color=INK, alpha=0.35, linewidth=0.8, label="resumed" if index == 0 else None, zorder=0.5)


def to_svg(figure: Figure, salt: str) -> str:
    """Return the figure as an SVG element to put into HTML; `salt` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML the parser knows the namespaces, and the page stays free of any address.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # matplotlib salts clip paths and markers but not the groups, which repeat in every figure.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(f": {color}", f": var(--{variable}, {color})")
    return svg
