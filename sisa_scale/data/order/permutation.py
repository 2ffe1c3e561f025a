"""The order of the training sequences: arithmetic on (block layout, seed, position), and nothing else.

A position counts the sequences of a run from 0 on. It runs over the epochs without a seam: an epoch is one pass over
all N sequences, and the batch in which one epoch ends takes the rest from the next.

    position     = epoch * N + p
    p            -> the p-th place of the epoch. The few sequences of the partial last block (the tail) take places
                    spread evenly over the epoch; the q-th of the other places belongs to the full blocks.
    q            -> group of `lanes` full blocks, lane in the group, row in the block. Neighbouring q are neighbouring
                    lanes, so that a batch draws one sequence from each of many blocks.
    block        = permutation[seed, epoch](slot of the lane)
    row          = permutation[seed, epoch, block](row)

The permutations are Feistel networks on integers: no table, no library generator, the same on every machine and for
every version of numpy. Each range of positions is divided over the ranks by arithmetic too, so neither the number of
ranks nor a restart can change what a step sees.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sisa_scale.errors import ConfigError

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

DEFAULT_LANES = 512

_NUM_ROUNDS = 6
_BLOCK_STREAM, _ROW_STREAM = 1, 2


@dataclass(frozen=True)
class SequenceOrder:
    """The order of all sequences of a split.

    num_full_blocks: blocks with all their sequences; tail_sequences: sequences of the partial last block (0: there is
    none), which has the block number `num_full_blocks`; sequences_per_block: of a full block; seed: 0 to 2**64 - 1;
    lanes: blocks that are read side by side, so that lanes * sequences_per_block sequences are mixed.
    """

    num_full_blocks: int
    tail_sequences: int
    sequences_per_block: int
    seed: int
    lanes: int = DEFAULT_LANES

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError.at(
                "seed", found=str(self.seed), allowed="an integer from 0 to 2**64 - 1", remedy="Choose one."
            )
        if self.sequences_per_epoch < 1 or self.lanes < 1:
            raise ValueError("an order needs at least one sequence and one lane")
        if self.sequences_per_epoch * max(self.tail_sequences, 1) >= 1 << 63:
            raise ValueError("too many sequences for 64-bit arithmetic")

    @property
    def sequences_per_epoch(self) -> int:
        """Sequences of one pass over the split."""
        return self.num_full_blocks * self.sequences_per_block + self.tail_sequences

    def locate(self, positions: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Return (epoch, block, row) of each position; all are 1-D int64 arrays of one length. Positions are >= 0."""
        if positions.size and int(positions.min()) < 0:
            raise ValueError("positions are not negative")
        epoch, place = np.divmod(positions.astype(np.int64), self.sequences_per_epoch)
        # Tail sequence t sits where place * tail / N steps from t to t + 1.
        num_tail_before = place * self.tail_sequences // self.sequences_per_epoch
        is_tail = (place + 1) * self.tail_sequences // self.sequences_per_epoch > num_tail_before
        block, row = np.empty_like(place), np.empty_like(place)
        full_block, full_row = self._locate_full(epoch[~is_tail], (place - num_tail_before)[~is_tail])
        block[~is_tail], row[~is_tail] = full_block, full_row
        block[is_tail] = self.num_full_blocks
        row[is_tail] = self._permute_rows(epoch[is_tail], block[is_tail], num_tail_before[is_tail], self.tail_sequences)
        return epoch, block, row

    def _locate_full(self, epoch: Int64Array, place: Int64Array) -> tuple[Int64Array, Int64Array]:
        # The last group takes the remaining blocks as well: never fewer lanes than asked for, if there are as many.
        num_groups = max(1, self.num_full_blocks // self.lanes)
        group = np.minimum(place // (self.lanes * self.sequences_per_block), num_groups - 1)
        lanes = np.where(group < num_groups - 1, self.lanes, self.num_full_blocks - (num_groups - 1) * self.lanes)
        row, lane = np.divmod(place - group * self.lanes * self.sequences_per_block, lanes)
        block = permute(group * self.lanes + lane, self.num_full_blocks, keyed(self.seed, _BLOCK_STREAM, epoch))
        return block, self._permute_rows(epoch, block, row, self.sequences_per_block)

    def _permute_rows(self, epoch: Int64Array, block: Int64Array, row: Int64Array, num_rows: int) -> Int64Array:
        return permute(row, num_rows, keyed(self.seed, _ROW_STREAM, epoch, block))


def keyed(seed: int, *parts: Any) -> UInt64Array:
    """Mix a seed and numbers or arrays of them into keys; unsigned arithmetic wraps around."""
    key: UInt64Array = _mix(np.array([seed], dtype=np.uint64))
    for part in parts:
        key = _mix(key ^ np.asarray(part).astype(np.uint64))
    return key


def permute(values: Int64Array, size: int, keys: UInt64Array) -> Int64Array:
    """Map `values` (0 to size - 1) through permutations of range(size), one for each key; all 1-D of one length.

    A Feistel network permutes the next power of four; values that land outside range(size) walk on until inside.
    """
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < size:
        raise ValueError(f"values outside range({size}) have no place in the permutation")  # and might walk for ever
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    half_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    result = values.astype(np.uint64)
    outside = np.arange(values.size)
    while outside.size:
        left, right = result[outside] >> half_bits, result[outside] & half_mask
        for number in range(_NUM_ROUNDS):
            left, right = right, left ^ (_mix(right ^ _mix(keys[outside] + np.uint64(number))) & half_mask)
        result[outside] = left << half_bits | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def rank_positions(batch: range, rank: int, world_size: int) -> Int64Array:
    """Return the positions of one rank: the slice [G * r // W, G * (r + 1) // W) of the G positions of a global batch.

    Any world size will do. Where it does not divide the batch the slices differ by one; they may be empty.
    """
    if batch.start < 0 or not 0 <= rank < world_size:
        raise ValueError(f"{batch}, rank {rank} of {world_size}: positions are >= 0 and a rank is below the world size")
    return np.arange(batch.start + len(batch) * rank // world_size, batch.start + len(batch) * (rank + 1) // world_size)


def _mix(values: UInt64Array) -> UInt64Array:
    """Scramble 64-bit integers (the finaliser of SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
