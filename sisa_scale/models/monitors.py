"""What shows how SISA trains: sizes of its logits, norms of B and C, phases, and whose the gradient is.

Half-life and lambda hardly move while B and C grow and training diverges; the largest importance logit follows them.

Shapes: B batch, L length, M keys, H heads, P phases.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sisa_scale.models.kernels.prefix_sum import same_document
from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.importance import LogitParts
from sisa_scale.models.mixers.local_sisa import LocalSisa
from sisa_scale.models.mixers.sisa import Sisa
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, row_parts

CHUNK_TOKENS = 256  # queries whose logits are looked at together: bounds their memory
IMPORTANCE_PARTS = ("q", "C", "k", "B", "v", "decay", "phase", "gate")


class LayerMonitor(NamedTuple):
    """What a SISA layer does with its importance term on some tokens.

    half_life_tokens: infinite without decay. Logits: the largest absolute value of all pairs of a query and a key up to
    it, in a window or not. Norms: mean over heads and tokens of C, of queries, and B, of keys, as they enter the logit.
    last_phase_BHP: the sums of phase steps at the last token.
    """

    half_life_tokens: float
    lambda_H: list[float]
    largest_content_logit: float
    largest_importance_logit: float
    norm_c: float
    norm_b: float
    last_phase_BHP: Tensor


def read_layer(parts: LogitParts, lambda_H: Tensor, document_BL: Tensor | None) -> LayerMonitor:
    """Return the readings of a layer from what its logits are made of."""
    content = importance = torch.zeros((), dtype=torch.float64, device=lambda_H.device)
    length = parts.total_BLH.shape[1]
    document_1L = torch.zeros(1, length, device=lambda_H.device) if document_BL is None else document_BL
    for start in range(0, length, CHUNK_TOKENS):
        now, seen = slice(start, min(start + CHUNK_TOKENS, length)), slice(0, min(start + CHUNK_TOKENS, length))
        is_seen_BLM = same_document(document_1L[:, seen])[:, now]
        content_BHLM = parts.scale * _products(parts.q.content_BLHK[:, now], parts.k.content_BLHK[:, seen])
        importance_BHLM = _products(parts.q.importance_BLHS[:, now], parts.k.importance_BLHS[:, seen])
        total_BHL = parts.total_BLH.transpose(1, 2)
        decay_BHLM = (total_BHL[..., None, seen] - total_BHL[..., now, None]).clamp(max=0).exp()
        importance_BHLM = parts.weight_H[:, None, None] * decay_BHLM * importance_BHLM
        content = torch.maximum(content, (content_BHLM.abs() * is_seen_BLM[:, None]).max())
        importance = torch.maximum(importance, (importance_BHLM.abs() * is_seen_BLM[:, None]).max())
    decay = parts.decay_BLH.mean().item()
    return LayerMonitor(
        half_life_tokens=math.log(2) / decay if decay else math.inf,
        lambda_H=lambda_H.tolist(),
        largest_content_logit=content.item(),
        largest_importance_logit=importance.item(),
        norm_c=upcast(parts.q.importance_BLHS).norm(dim=-1).mean().item(),
        norm_b=upcast(parts.k.importance_BLHS).norm(dim=-1).mean().item(),
        last_phase_BHP=parts.phase_BLHP[:, -1],
    )


def phase_change(before: LayerMonitor, after: LayerMonitor) -> float:
    """Return by how many radians the sums of phases at the last token differ, as a root mean square."""
    change_BHP = after.last_phase_BHP - before.last_phase_BHP
    return change_BHP.square().mean().sqrt().item() if change_BHP.numel() else 0.0


class GradientShares:
    """The share that groups of weights have in the squared norm of a gradient.

    Reads one backward pass when told to, without a pass of its own and without touching a gradient: that of the first
    micro-batch of this worker. Groups are those of SISA's projections, q, k, v, C, B, decay, phase, gate, and others.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = dict(_importance_projections(model))
        self._is_waiting = False
        self._squares: dict[str, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            parameter.register_hook(partial(self._read, name))

    def read_next(self) -> None:
        """Read the backward pass that comes next."""
        self._is_waiting, self._squares = True, {}

    def take(self) -> dict[str, float] | None:
        """Return the shares, which sum to 1, and forget them; None if no backward pass was read."""
        squares: dict[str, float] = {}
        for groups in self._squares.values():
            for group, square in groups.items():
                squares[group] = squares.get(group, 0.0) + square.item()
        self._is_waiting, self._squares = False, {}
        total = sum(squares.values())
        return {group: square / total for group, square in squares.items()} if 0 < total < math.inf else None

    def block_norms(self, num_blocks: int) -> list[float]:
        """Return the norm of the gradient of every block and forget it; NaN where none was read."""
        squares = [math.nan] * num_blocks
        for name, groups in self._squares.items():
            place = name.split(".")
            if place[0] == "blocks":
                block, square = int(place[1]), sum(value.item() for value in groups.values())
                squares[block] = square if math.isnan(squares[block]) else squares[block] + square
        self._is_waiting, self._squares = False, {}
        return [math.sqrt(square) for square in squares]

    @torch.no_grad()
    def _read(self, name: str, gradient: Tensor) -> None:
        if not self._is_waiting or name in self._squares:
            return
        parts = self._parts.get(name)
        squares = {_group_of(name): _square(gradient)} if parts is None else _part_squares(parts, gradient)
        self._squares[name] = squares


def _importance_projections(model: nn.Module) -> Iterator[tuple[str, dict[str, RowPart]]]:
    """Yield the fused projections of mixers with SISA's term, and their parts."""
    parts = row_parts(model)
    for name, module in model.named_modules():
        if isinstance(module, Sisa) or (isinstance(module, Hymba) and isinstance(module.attention, LocalSisa)):
            yield f"{name}.project.weight", parts[f"{name}.project.weight"]


def _part_squares(parts: dict[str, RowPart], gradient: Tensor) -> dict[str, Tensor]:
    squares: dict[str, Tensor] = {}
    for name, part in parts.items():
        group = name if name in IMPORTANCE_PARTS else "state space"
        squares[group] = squares.get(group, 0.0) + _square(part.of(gradient))
    return squares


def _square(gradient: Tensor) -> Tensor:
    return gradient.double().square().sum()


def _group_of(name: str) -> str:
    last = name.rsplit(".", 2)
    if name in ("embedding.weight", "meta"):
        return "embedding"
    if "norm" in name:
        return "norms"
    if ".mlp." in name:
        return "MLP"
    if last[-1] in ("lambda_raw", "decay_bias"):
        return last[-1].replace("lambda_raw", "lambda").replace("_", " ")
    return "output" if last[-2] == "out" else "other mixers"


def _products(q_BLHC: Tensor, k_BMHC: Tensor) -> Tensor:
    with torch.autocast(q_BLHC.device.type, enabled=False):
        return upcast(q_BLHC).transpose(1, 2) @ upcast(k_BMHC).permute(0, 2, 3, 1)
