"""Tensor names and shapes of the SISA paper's files (Transformer and SISA), and what their channels are here.

    published                          here
    embed.weight                       embedding.weight
    final_norm.weight                  norm.weight
    layers.N.attn_norm, ffn_norm       blocks.N.mixer_norm, mlp_norm
    layers.N.ffn.w_gate, w_up          blocks.N.mlp.gate_up       [gate | up]
    layers.N.ffn.w_down                blocks.N.mlp.down
    layers.N.W_O                       blocks.N.mixer.out
    layers.N.W_Q, W_K, W_V             blocks.N.mixer.qkv         [q | k | v]                       Transformer
    ... and W_C, W_B, alpha_proj,      blocks.N.mixer.project     [q | k | v | decay | phase],      SISA
        theta_proj                                                heads of q [W_Q | W_C], of k [W_K | W_B]
    layers.N.alpha_proj.bias           blocks.N.mixer.decay_bias
    layers.N.lambda_raw                blocks.N.mixer.lambda_raw

The published rotations turn neighbouring channels (2i, 2i + 1) of a head, ours the two halves of its content and of its
importance, (i, i + width / 2): rows are reordered within a head. Every tensor is otherwise taken over as it is.

Shapes: D width, H heads, K content channels of a head, S importance channels, F hidden width, R rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Read = Callable[[str], Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OfficialLayout:
    """The sizes of a published model; d_state 0 is the Transformer."""

    vocab_size: int
    d_model: int
    num_heads: int
    num_layers: int
    d_ff: int
    d_state: int

    def shapes(self) -> dict[str, Shape]:
        """Return every tensor of the file, in its order."""
        d, heads, state = self.d_model, self.num_heads, self.d_state
        layer: dict[str, Shape] = {}
        if state:
            layer["lambda_raw"] = (heads,)
        layer |= dict.fromkeys(("W_Q.weight", "W_K.weight", "W_V.weight", "W_O.weight"), (d, d))
        if state:
            layer |= dict.fromkeys(("W_B.weight", "W_C.weight"), (heads * state, d))
            layer |= {"alpha_proj.weight": (heads, d), "alpha_proj.bias": (heads,)}
            layer["theta_proj.weight"] = (heads * state // 2, d)
        layer |= dict.fromkeys(("attn_norm.weight", "ffn_norm.weight"), (d,))
        layer |= dict.fromkeys(("ffn.w_gate.weight", "ffn.w_up.weight"), (self.d_ff, d))
        layer["ffn.w_down.weight"] = (d, self.d_ff)
        shapes: dict[str, Shape] = {"embed.weight": (self.vocab_size, d)}
        for number in range(self.num_layers):
            shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
        return shapes | {"final_norm.weight": (d,)}

    def to_ours(self, name: str, read: Read) -> Tensor:
        """Return one of our parameters, made from published tensors."""
        return self._readers()[name](read)

    def to_official(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        """Yield every published tensor, made from our parameters, in any order."""
        yield "embed.weight", read("embedding.weight")[: self.vocab_size]
        yield "final_norm.weight", read("norm.weight")
        for number in range(self.num_layers):
            for name, tensor in self._layer_to_official(_below(read, f"blocks.{number}.")):
                yield f"layers.{number}.{name}", tensor

    def _readers(self) -> dict[str, Callable[[Read], Tensor]]:
        readers: dict[str, Callable[[Read], Tensor]] = {
            "embedding.weight": lambda read: read("embed.weight"),
            "norm.weight": lambda read: read("final_norm.weight"),
        }
        for number in range(self.num_layers):
            for ours, make in self._layer_readers().items():
                readers[f"blocks.{number}.{ours}"] = partial(_made, make, f"layers.{number}.")
        return readers

    def _layer_readers(self) -> dict[str, Callable[[Read], Tensor]]:
        readers: dict[str, Callable[[Read], Tensor]] = {
            "mixer_norm.weight": lambda read: read("attn_norm.weight"),
            "mlp_norm.weight": lambda read: read("ffn_norm.weight"),
            "mlp.gate_up.weight": lambda read: torch.cat((read("ffn.w_gate.weight"), read("ffn.w_up.weight"))),
            "mlp.down.weight": lambda read: read("ffn.w_down.weight"),
            "mixer.out.weight": lambda read: read("W_O.weight"),
        }
        if not self.d_state:
            return readers | {"mixer.qkv.weight": self._qkv}
        return readers | {
            "mixer.project.weight": self._project,
            "mixer.decay_bias": lambda read: read("alpha_proj.bias"),
            "mixer.lambda_raw": lambda read: read("lambda_raw"),
        }

    def _qkv(self, read: Read) -> Tensor:
        q_RD, k_RD = (self._halves(read(f"{name}.weight")) for name in ("W_Q", "W_K"))
        return torch.cat((q_RD.flatten(0, 1), k_RD.flatten(0, 1), read("W_V.weight")))

    def _project(self, read: Read) -> Tensor:
        heads = [
            torch.cat([self._halves(read(f"{name}.weight")) for name in pair], dim=1).flatten(0, 1)
            for pair in (("W_Q", "W_C"), ("W_K", "W_B"))
        ]
        return torch.cat((*heads, *(read(f"{name}.weight") for name in ("W_V", "alpha_proj", "theta_proj"))))

    def _layer_to_official(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        yield "attn_norm.weight", read("mixer_norm.weight")
        yield "ffn_norm.weight", read("mlp_norm.weight")
        gate_up = read("mlp.gate_up.weight")
        yield "ffn.w_gate.weight", gate_up[: self.d_ff]
        yield "ffn.w_up.weight", gate_up[self.d_ff :]
        yield "ffn.w_down.weight", read("mlp.down.weight")
        yield "W_O.weight", read("mixer.out.weight")
        d, heads, width = self.d_model, self.num_heads, self.d_model // self.num_heads
        augmented = d + heads * self.d_state
        rows = read("mixer.project.weight" if self.d_state else "mixer.qkv.weight")
        dynamics = [heads, heads * self.d_state // 2] if self.d_state else []
        q, k, v, *rates = rows.split([augmented, augmented, d, *dynamics])
        yield "W_V.weight", v
        for head_rows, content, importance in ((q, "W_Q", "W_C"), (k, "W_K", "W_B")):
            by_head = head_rows.unflatten(0, (heads, -1))
            yield f"{content}.weight", _neighbours(by_head[:, :width])
            if self.d_state:
                yield f"{importance}.weight", _neighbours(by_head[:, width:])
        if self.d_state:
            yield "alpha_proj.weight", rates[0]
            yield "theta_proj.weight", rates[1]
            yield "alpha_proj.bias", read("mixer.decay_bias")
            yield "lambda_raw", read("mixer.lambda_raw")

    def _halves(self, rows_RD: Tensor) -> Tensor:
        """Return (H, channels, D) with channel 2i of every head at i, and 2i + 1 at i + half."""
        by_head: Tensor = rows_RD.unflatten(0, (self.num_heads, -1, 2))
        halves: Tensor = by_head.transpose(1, 2).flatten(1, 2)
        return halves


def _below(read: Read, prefix: str) -> Read:
    return lambda name: read(prefix + name)


def _made(make: Callable[[Read], Tensor], prefix: str, read: Read) -> Tensor:
    return make(_below(read, prefix))


def _neighbours(by_head: Tensor) -> Tensor:
    """Undo `_halves`: (H, channels, D) to (H channels, D)."""
    rows_RD: Tensor = by_head.unflatten(1, (2, -1)).transpose(1, 2).flatten(0, 2)
    return rows_RD
