"""Where the sequences of a step lie: positions -> (source, epoch, block, row), for all sources of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from sisa_scale.data.order.mixture import Mixture
from sisa_scale.data.order.permutation import Int64Array, SequenceOrder, global_batch_positions, rank_positions

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

    def __init__(self, orders: Sequence[SequenceOrder], mixture: Mixture, global_batch_sequences: int) -> None:
        self._orders, self._mixture, self._batch = orders, mixture, global_batch_sequences
        self._steps = lru_cache(16)(self._locate_steps)

    def global_batch(self, step: int) -> Plan:
        """Return the places of a whole step."""
        return self._locate(global_batch_positions(step, self._batch))

    def share(self, step: int, rank: int, world_size: int) -> Plan:
        """Return the places of one rank's part of a step."""
        size = rank_positions(step, self._batch, rank, world_size).size
        num_steps = max(1, _NUM_SEQUENCES // max(1, size))
        chunk, inside = divmod(step, num_steps)
        return self._steps(chunk, num_steps, rank, world_size).part(inside * size, (inside + 1) * size)

    def _locate_steps(self, chunk: int, num_steps: int, rank: int, world_size: int) -> Plan:
        steps = range(chunk * num_steps, (chunk + 1) * num_steps)
        return self._locate(np.concatenate([rank_positions(step, self._batch, rank, world_size) for step in steps]))

    def _locate(self, position: Int64Array) -> Plan:
        source, index = self._mixture.locate(position)
        epoch, block, row = (np.empty_like(position) for _ in range(3))
        for number, order in enumerate(self._orders):
            is_here = source == number
            epoch[is_here], block[is_here], row[is_here] = order.locate(index[is_here])
        return Plan(position, source, epoch, block, row)
