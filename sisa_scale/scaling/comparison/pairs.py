"""Differences between architectures from paired seeds, and how much a seed alone changes a loss.

Runs of one size, length and seed read the same data in the same order, so the difference of two architectures is
taken seed by seed: what the order of the data does to both drops out. A cell is a size and a length. Intervals are
those of the paired t, of one cell, or of the mean over all cells with the same seeds: runs that share a trunk or the
data are then one observation a seed.
"""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.fit.bootstrap import LEVEL
from sisa_scale.scaling.fit.student import quantile
from sisa_scale.scaling.table.table import RunTable

OVERALL = "all"
Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """Loss of the architecture minus that of the reference, in the table's unit: the mean over `seeds` pairs.

    cell: size and length, or OVERALL twice for the mean over `num_cells` cells. deviation: of one pair; interval: None
    with one pair.
    """

    architecture: str
    cell: Cell
    num_cells: int
    seeds: tuple[str, ...]
    mean: float
    deviation: float | None
    interval: list[float] | None

    @property
    def is_null(self) -> bool | None:
        """Whether the interval holds 0; None without an interval."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]

    def sentence(self, reference: str, level: float) -> str:
        """Say what is shown: lower, higher, or nothing."""
        size, length = self.cell
        mean = f"on average over {self.num_cells} sizes and lengths"
        where = mean if size == OVERALL else f"at {size}, {length} tokens"
        pair = f"{self.architecture} against {reference} {where}"
        if self.interval is None:
            return f"{pair}: {self.mean:+.4f}, one seed, so nothing is shown."
        low, high = self.interval
        text = f"{self.mean:+.4f} ({level:.0%}: {low:+.4f} to {high:+.4f}, {len(self.seeds)} paired seeds)"
        if self.is_null:
            return f"{pair}: a null, no difference is shown: {text}."
        way = "lower" if self.mean < 0 else "higher"
        return f"{self.architecture} has a {way} loss than {reference} {where}: {text}."


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """Standard deviation of the loss over seeds within a cell, pooled over cells with `degrees` of freedom in all."""

    architecture: str
    deviation: float
    degrees: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """overall: one line an architecture; cells: one for each of its cells; noise: of every architecture with seeds."""

    reference: str
    level: float
    overall: tuple[Difference, ...]
    cells: tuple[Difference, ...]
    noise: tuple[SeedNoise, ...]


def compare_pairs(table: RunTable, reference: str, level: float = LEVEL) -> Pairs | None:
    """Compare every architecture with the reference by seeds; None where the table has no pairs.

    Pairs agree in the columns `size`, `seed`, and `budget` or tokens.
    """
    if not {"size", "seed"} <= table.texts.keys() or reference not in table.architectures:
        return None
    losses = _by_cell(table)
    overall, cells = list[Difference](), list[Difference]()
    for name in table.architectures:
        if name == reference:
            continue
        pairs = {
            cell: {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
            for (other, cell), mine in losses.items()
            if other == name and (theirs := losses.get((reference, cell))) is not None
        }
        pairs = {cell: by_seed for cell, by_seed in pairs.items() if by_seed}
        if not pairs:
            continue
        cells += [_difference(name, cell, 1, by_seed, level) for cell, by_seed in pairs.items()]
        # One observation a seed: cells that lack one of the seeds would weigh others more.
        most = max((frozenset(by_seed) for by_seed in pairs.values()), key=lambda seeds: (len(seeds), sorted(seeds)))
        whole = [by_seed for by_seed in pairs.values() if most <= by_seed.keys()]
        means = {seed: float(np.mean([by_seed[seed] for by_seed in whole])) for seed in sorted(most)}
        overall.append(_difference(name, (OVERALL, OVERALL), len(whole), means, level))
    if not cells:
        return None
    noise = [found for name in table.architectures if (found := _noise(name, losses)) is not None]
    return Pairs(reference, level, tuple(overall), tuple(cells), tuple(noise))


def _by_cell(table: RunTable) -> dict[tuple[str, Cell], dict[str, float]]:
    budgets = table.numbers.get("budget")
    lengths = table.tokens if budgets is None else budgets
    found: dict[tuple[str, Cell], dict[str, float]] = {}
    rows = zip(table.architecture_N, table.texts["size"], table.texts["seed"], lengths, table.losses, strict=True)
    for name, size, seed, length, loss in rows:
        found.setdefault((str(name), (str(size), f"{length:,.0f}")), {})[str(seed)] = float(loss)
    return found


def _difference(name: str, cell: Cell, num_cells: int, by_seed: dict[str, float], level: float) -> Difference:
    values, seeds = np.array(list(by_seed.values())), tuple(by_seed)
    mean = float(values.mean())
    if len(values) < 2:
        return Difference(name, cell, num_cells, seeds, mean, None, None)
    deviation = float(values.std(ddof=1))
    half = quantile(level, len(values) - 1) * deviation / float(np.sqrt(len(values)))
    return Difference(name, cell, num_cells, seeds, mean, deviation, [mean - half, mean + half])


def _noise(name: str, losses: dict[tuple[str, Cell], dict[str, float]]) -> SeedNoise | None:
    groups = [np.array(list(by_seed.values())) for (other, _), by_seed in losses.items() if other == name]
    degrees = sum(len(group) - 1 for group in groups)
    if degrees < 1:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return SeedNoise(name, float(np.sqrt(squares / degrees)), degrees)
