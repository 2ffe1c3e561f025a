"""Where the sequences of a step lie: positions -> (source, epoch, block, row), for all sources of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from sisa_scale.config.batches import GlobalBatches
from sisa_scale.data.order.mixture import Mixture
from sisa_scale.data.order.permutation import Int64Array, SequenceOrder, rank_positions

# Located together: the arithmetic on a few hundred positions costs hardly more than that on one.
_NUM_SEQUENCES = 8192


@dataclass(frozen=True)
class Plan:
    """Places of sequences: columns of one length, in the order of the positions."""

    position: Int64Array
    source: Int64Array
    epoch: Int64Array
    block: Int64Array
    row: Int64Array

    def part(self, start: int, stop: int) -> "Plan":
        """Return some of the places."""
        return Plan(*(getattr(self, field.name)[start:stop] for field in fields(self)))


class Planner:
    """Locates the sequences of steps. orders: of the sources, as the mixture counts them. For several threads."""

    def __init__(self, orders: Sequence[SequenceOrder], mixture: Mixture, batches: GlobalBatches) -> None:
        self._orders, self._mixture, self._batches = orders, mixture, batches
        self._steps = lru_cache(16)(self._locate_steps)

    def global_batch(self, step: int) -> Plan:
        """Return the places of a whole step."""
        return self._locate(rank_positions(self._batches.positions(step), rank=0, world_size=1))

    def share(self, step: int, rank: int, world_size: int) -> Plan:
        """Return the places of one rank's part of a step."""
        size = rank_positions(self._batches.positions(step), rank, world_size).size
        num_steps = max(1, _NUM_SEQUENCES // max(1, size))
        chunk, inside = divmod(step, num_steps)
        plan, ends = self._steps(chunk, num_steps, rank, world_size)
        return plan.part(int(ends[inside]) - size, int(ends[inside]))

    def _locate_steps(self, chunk: int, num_steps: int, rank: int, world_size: int) -> tuple[Plan, Int64Array]:
        """Return the places of the steps of a chunk, one step behind the other, and where each step's end."""
        steps = range(chunk * num_steps, (chunk + 1) * num_steps)
        positions = [rank_positions(self._batches.positions(step), rank, world_size) for step in steps]
        return self._locate(np.concatenate(positions)), np.cumsum([part.size for part in positions])

    def _locate(self, position: Int64Array) -> Plan:
        source, index = self._mixture.locate(position)
        epoch, block, row = (np.empty_like(position) for _ in range(3))
        for number, order in enumerate(self._orders):
            is_here = source == number
            epoch[is_here], block[is_here], row[is_here] = order.locate(index[is_here])
        return Plan(position, source, epoch, block, row)
