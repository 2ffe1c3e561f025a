"""Whole matrices under ZeRO: every matrix is put together on one worker, changed there, and given back in pieces.

ZeRO cuts flattened weights wherever a worker's share ends. So all workers exchange with all, twice: pieces go to the
worker that a matrix is assigned to, and what becomes of it returns to where the pieces came from. A worker sends and
receives about its share of the elements each time. Where workers have all of a weight (ZeRO 0), the first exchange
sends nothing, and the second brings the results of all to all. Matrices are exchanged a bucket at a time, which bounds
the memory.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sisa_scale.config.execution import MATRIX_BUCKET_ELEMENTS
from sisa_scale.models.row_parts import RowPart
from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.optimizers.newton_schulz import orthogonalization_flops


class Matrix(NamedTuple):
    """A weight (rows, columns), and the parts of its rows that are matrices by themselves: one without names is all."""

    name: str
    rows: int
    columns: int
    parts: tuple[RowPart, ...]

    @property
    def size(self) -> int:
        """Its elements."""
        return self.rows * self.columns

    @property
    def part_shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the parts."""
        whole = torch.empty(self.rows, self.columns, device="meta")
        return [(math.prod(part.of(whole).shape[:2]), self.columns) for part in self.parts]

    @property
    def cost(self) -> int:
        """FLOPs of a step of Newton and Schulz for all parts."""
        return sum(orthogonalization_flops(*shape, steps=1) for shape in self.part_shapes)


class Held(NamedTuple):
    """What a worker has of a matrix, by its number: `length` elements from `start` on, at `offset` of `tensor`.

    call: which of the optimizer's calls in a step updates the tensor. ZeRO 3 may have pieces without elements.
    """

    matrix: int
    start: int
    length: int
    call: int
    tensor: Tensor
    offset: int

    def of(self, values: Tensor) -> Tensor:
        """Return the piece of values that lie as the tensor does."""
        return values.view(-1).narrow(0, self.offset, self.length)


class WholeMatrixOptimizer(Protocol):
    """An optimizer with groups that are `is_whole` (`config.optimizers.spec`)."""

    def place(self, matrices: Sequence[Matrix], held: Sequence[Held], workers: Communicator) -> None:
        """Learn where the elements of the matrices lie; all workers call this together, once ZeRO has cut them."""
        ...


class Piece(NamedTuple):
    """What any worker has of a matrix."""

    matrix: int
    start: int
    length: int


Numbered = tuple[int, Piece]  # with its number among the pieces of its worker


class MatrixExchange:
    """The exchange of a bucket of matrices.

    matrices: by number; pieces: what every worker has of them; rank: of this worker; owner: the worker of every matrix.
    """

    def __init__(self, matrices: Mapping[int, Matrix], pieces: Sequence[Sequence[Piece]], rank: int) -> None:
        self.rank, self.world_size, self.pieces = rank, len(pieces), pieces
        self.sizes = {number: matrix.size for number, matrix in matrices.items()}
        self.owner = assign({number: matrix.cost for number, matrix in matrices.items()}, self.world_size)
        self.own = [number for number in matrices if self.owner[number] == rank]
        workers = range(self.world_size)
        complete = {
            piece.matrix
            for worker, held in enumerate(pieces)
            for piece in held
            if self.owner[piece.matrix] == worker and piece.length == self.sizes[piece.matrix]
        }
        # By worker: my pieces of its matrices, and its of mine; of both, those that the owner does not have itself.
        self._mine = [self._pieces(rank, owner) for owner in workers]
        self._theirs = [self._pieces(worker, rank) for worker in workers]
        self._sent, self._expected = (
            [[item for item in table[other] if other == rank or item[1].matrix not in complete] for other in workers]
            for table in (self._mine, self._theirs)
        )

    def exchange(
        self, pieces: Iterable[Tensor], change: Callable[[int, Tensor], Tensor], device: torch.device
    ) -> list[Tensor]:
        """Return what becomes of this worker's pieces, flat and in their order.

        pieces: made one after the other, and let go of before there are results; change: of a matrix, by its number,
        and its elements, flat and on `device`, to as many; called once for every matrix, by one worker.
        """
        whole = self._gather(pieces, device)
        return self._give_back({matrix: change(matrix, whole.pop(matrix)) for matrix in self.own}, device)

    def _gather(self, pieces: Iterable[Tensor], device: torch.device) -> dict[int, Tensor]:
        own = list(pieces)
        sent = [[own[index] for index, _ in found] for found in self._sent]
        received = self._all_to_all(sent, self._expected, device)
        whole = {matrix: torch.empty(self.sizes[matrix], device=device) for matrix in self.own}
        for (_, piece), chunk in received:
            whole[piece.matrix].narrow(0, piece.start, piece.length).copy_(chunk)
        return whole

    def _give_back(self, changed: dict[int, Tensor], device: torch.device) -> list[Tensor]:
        sent = [
            [changed[piece.matrix].narrow(0, piece.start, piece.length) for _, piece in found] for found in self._theirs
        ]
        chunks = {index: chunk for (index, _), chunk in self._all_to_all(sent, self._mine, device)}
        return [chunks[index] for index in range(len(self.pieces[self.rank]))]

    def _pieces(self, worker: int, owner: int) -> list[Numbered]:
        """Return the pieces that a worker has of the matrices of an owner."""
        return [(index, piece) for index, piece in enumerate(self.pieces[worker]) if self.owner[piece.matrix] == owner]

    def _all_to_all(
        self, sent: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Numbered]], device: torch.device
    ) -> list[tuple[Numbered, Tensor]]:
        """Give each worker its tensors; return those that are expected of each worker, flat, beside what they are."""
        flat = [tensor.reshape(-1) for tensors in sent for tensor in tensors]
        outgoing = torch.cat(flat).to(device) if flat else torch.empty(0, device=device)
        incoming = outgoing
        if self.world_size > 1:
            sizes = [sum(piece.length for _, piece in found) for found in expected]
            incoming = torch.empty(sum(sizes), device=device)
            dist.all_to_all_single(incoming, outgoing, sizes, [sum(map(Tensor.numel, tensors)) for tensors in sent])
        items = [item for found in expected for item in found]
        return list(zip(items, incoming.split([piece.length for _, piece in items]), strict=True))


def assign(costs: Mapping[int, float], num_workers: int) -> dict[int, int]:
    """Return a worker for every matrix: the most costly first, each to the worker with the least to do so far.

    The worker with the most then has no more than 4/3 of what the best division would give it (Graham 1969).
    """
    load, owner = [0.0] * num_workers, {}
    for matrix in sorted(costs, key=lambda matrix: -costs[matrix]):
        owner[matrix] = min(range(num_workers), key=load.__getitem__)
        load[owner[matrix]] += costs[matrix]
    return owner


def buckets(sizes: Mapping[int, int]) -> list[list[int]]:
    """Return successive matrices in buckets of up to MATRIX_BUCKET_ELEMENTS, or of one that has more."""
    found: list[list[int]] = []
    room = 0
    for matrix, size in sizes.items():
        if size > room:
            found.append([])
            room = MATRIX_BUCKET_ELEMENTS
        found[-1].append(matrix)
        room -= size
    return found
