"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers"; scaled as by Liu et al. 2025, 2502.16982).

    M = mu M + (1 - mu) G;    W = (1 - eta lambda) W - eta 0.2 sqrt(max(rows, columns)) orthogonal(G + mu (M - G))

The update of a matrix whose singular values are 1 has elements of root mean square 1 / sqrt(max(rows, columns)); the
factor makes that 0.2, about what AdamW's has, so that its rate eta and decay lambda carry over. Parts of a fused
projection are matrices by themselves. All other weights are AdamW's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.optimizers.matrix_exchange import (
    Held,
    Matrix,
    MatrixExchange,
    Piece,
    buckets,
)
from sisa_scale.training.optimizers.newton_schulz import orthogonalized

ADAMW_RMS = 0.2  # of AdamW's updates before the learning rate, as Liu et al. found it


class Muon(Optimizer):
    """Groups with a `momentum` are Muon's, the others AdamW's.

    A step without gradients is one that was refused, on all workers. States: as `config.optimizers.muon` says.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, fused: bool
    ) -> None:
        rest = [group for group in groups if "momentum" not in group]
        self._adamw = AdamW(rest, lr=lr, betas=betas, eps=eps, fused=fused)  # gives these groups their settings, too
        super().__init__(groups, {"lr": lr})
        self._matrices: Sequence[Matrix] = ()
        self._buckets: dict[int, list[tuple[MatrixExchange, list[Held]]]] = {}  # by call
        self._call_of: dict[Tensor, int] = {}
        self._device = torch.device("cpu")

    def place(self, matrices: Sequence[Matrix], held: Sequence[Held], workers: Communicator) -> None:
        """Learn where the elements of the matrices lie; all workers call this together, once ZeRO has cut them."""
        self._matrices, self._device = matrices, workers.device
        self._call_of = {item.tensor: item.call for item in held}
        own = [(item.call, Piece(item.matrix, item.start, item.length)) for item in held if item.length]
        told: list[list[tuple[int, Piece]]] = workers.gather(own)
        for call in sorted({call for found in told for call, _ in found}):
            numbers = sorted({piece.matrix for found in told for its_call, piece in found if its_call == call})
            self._buckets[call] = []
            for bucket in buckets({number: matrices[number].size for number in numbers}):
                pieces = [[piece for _, piece in found if piece.matrix in bucket] for found in told]
                exchange = MatrixExchange({number: matrices[number] for number in bucket}, pieces, workers.rank)
                self._buckets[call].append((exchange, [x for x in held if x.matrix in bucket and x.length]))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the groups at hand: DeepSpeed calls this for one after the other."""
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
        self._adamw.step()
        for group in self.param_groups:
            if "momentum" in group and any(weight.grad is not None for weight in group["params"]):
                self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = group["params"]
        rate, steps = group["lr"], group["newton_schulz_steps"]
        for weight in weights:
            self._momentum(weight).lerp_(_gradient(weight), 1 - group["momentum"])
            weight.mul_(1 - rate * group["weight_decay"])
        for exchange, held in self._buckets[self._call_of.get(weights[0], 0)]:
            updates = exchange.exchange(
                (self._update(item, group) for item in held),
                lambda number, flat: self._orthogonalized(self._matrices[number], flat, steps),
                self._device,
            )
            for item, update in zip(held, updates, strict=True):
                item.of(item.tensor).sub_(update.to(item.tensor.device), alpha=rate)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum

    def _update(self, item: Held, group: dict[str, Any]) -> Tensor:
        momentum = item.of(self._momentum(item.tensor))
        if not group["nesterov"]:
            return momentum
        return item.of(_gradient(item.tensor)).lerp(momentum, group["momentum"])

    def _orthogonalized(self, matrix: Matrix, flat: Tensor, steps: int) -> Tensor:
        """Return the scaled update of a matrix from its momentum; bf16 suffices, where it is fast (Jordan et al.)."""
        dtype = torch.bfloat16 if flat.is_cuda else flat.dtype
        whole = flat.view(matrix.rows, matrix.columns)
        for part, (rows, columns) in zip(matrix.parts, matrix.part_shapes, strict=True):
            view = part.of(whole)
            result = orthogonalized(view.reshape(rows, columns).to(dtype), steps)
            view.copy_(result.view(view.shape)).mul_(ADAMW_RMS * math.sqrt(max(rows, columns)))
        return flat


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
