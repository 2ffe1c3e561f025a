"""Which source every position of a run draws from: arithmetic on (weights, seed, position).

The weights of a stage are turned into whole numbers n_s whose sum is its cycle, at most 4096. Every cycle of positions
holds exactly n_s sequences of source s, shuffled by a permutation of (seed, stage, cycle). Within a source the order is
its own: the k-th position that draws from source s takes the k-th position of the source's `SequenceOrder`, through all
stages. So nothing is stored, nothing depends on the number of ranks, and what a source has given by any step is known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from sisa_scale.data.order.permutation import Int64Array, keyed, permute
from sisa_scale.errors import ConfigError

MAX_CYCLE = 4096

_MIX_STREAM = 3


def whole_shares(weights: Mapping[str, float]) -> dict[str, int]:
    """Turn weights into whole numbers in proportion: exactly if a sum up to 4096 allows it, else to 1 in 4096.

    Raises ConfigError for a weight above 0 that would become 0.
    """
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total = sum(exact.values())
    parts = {name: weight / total for name, weight in exact.items()}
    denominator = math.lcm(*(part.denominator for part in parts.values()))
    if denominator <= MAX_CYCLE:
        cycle = MAX_CYCLE // denominator * denominator
        return {name: int(part * cycle) for name, part in parts.items()}
    shares = {name: math.floor(part * MAX_CYCLE) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: (shares[name] - parts[name] * MAX_CYCLE, name))
    for name in by_remainder[: MAX_CYCLE - sum(shares.values())]:
        shares[name] += 1
    for name, weight in weights.items():
        if weight and not shares[name]:
            raise ConfigError.at(
                f"data.mix.{name}",
                found=f"the weight {weight:g}, {float(parts[name]):.2g} of the whole",
                allowed=f"a source has a share of 0 or of about 1 in {MAX_CYCLE} at least",
                remedy="Raise the weight, or set it to 0.",
            )
    return shares


@dataclass(frozen=True)
class Stage:
    """Weights from a position on: the sequences that a cycle holds of each source, in the order of the sources."""

    start: int
    shares: tuple[int, ...]


class Mixture:
    """The sources of all positions. `stages` begin at position 0 and ascend; all have one share for each source."""

    def __init__(self, seed: int, stages: Sequence[Stage]) -> None:
        if not stages or stages[0].start or any(a.start >= b.start for a, b in pairwise(stages)):
            raise ValueError("the first stage begins at 0, and every other after the one before")
        self.seed, self.stages = seed, tuple(stages)
        self.num_sources = len(stages[0].shares)
        self._given = [np.zeros(self.num_sources, dtype=np.int64)]  # by each source before each stage
        for number in range(len(stages) - 1):
            self._given.append(self._given[number] + self._counts(number, stages[number + 1].start))

    def locate(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return (source, position within that source) of each position; 1-D int64 arrays of one length."""
        if self.num_sources == 1:
            return np.zeros_like(positions), positions
        source, index = np.empty_like(positions), np.empty_like(positions)
        stage_of = np.searchsorted([stage.start for stage in self.stages], positions, side="right") - 1
        for number in np.unique(stage_of).tolist():
            inside = stage_of == number
            source[inside], index[inside] = self._locate(number, positions[inside])
        return source, index

    def counts(self, stop: int) -> tuple[int, ...]:
        """Return how many of the positions below `stop` draw from each source."""
        number = max(i for i, stage in enumerate(self.stages) if stage.start <= stop)
        return tuple((self._given[number] + self._counts(number, stop)).tolist())

    def _locate(self, number: int, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        stage = self.stages[number]
        shares = np.array(stage.shares)
        cycle, place = np.divmod(positions - stage.start, shares.sum())
        cycles, which = np.unique(cycle, return_inverse=True)
        source_CP, rank_CP = self._tables(number, cycles)
        source = source_CP[which, place]
        return source, self._given[number][source] + cycle * shares[source] + rank_CP[which, place]

    def _counts(self, number: int, stop: int) -> Int64Array:
        """Return how many positions of a stage below `stop` draw from each source."""
        stage = self.stages[number]
        shares = np.array(stage.shares, dtype=np.int64)
        cycles, rest = divmod(stop - stage.start, int(shares.sum()))
        counts = cycles * shares
        if rest:
            source_CP, _ = self._tables(number, np.array([cycles]))
            counts += np.bincount(source_CP[0, :rest], minlength=self.num_sources)
        return counts

    def _tables(self, number: int, cycles: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return, for each cycle, the source of every place and how many places before it have the same source."""
        stage = self.stages[number]
        ends = np.cumsum(stage.shares)
        size = int(ends[-1])
        keys = np.repeat(keyed(self.seed, _MIX_STREAM, stage.start, cycles), size)
        slot_CP = permute(np.tile(np.arange(size), cycles.size), size, keys).reshape(cycles.size, size)
        source_CP = np.searchsorted(ends, slot_CP, side="right")
        rank_CP = np.empty_like(source_CP)
        for source in range(self.num_sources):
            is_source_CP = source_CP == source
            rank_CP[is_source_CP] = (np.cumsum(is_source_CP, axis=1) - 1)[is_source_CP]
        return source_CP, rank_CP


def source_seed(seed: int, number: int) -> int:
    """Return the seed of a source's own order, so that sources of one size are not shuffled alike."""
    return int(keyed(seed, _MIX_STREAM, number)[0])
