"""What decoding keeps of the tokens so far.

Keys and values lie in buffers that double when full: a token is then copied about once on average, where
concatenation would copy the whole past for every new token.

Shapes: B batch, L new tokens, M tokens so far, H heads, K channels of keys, J of values, P phases, S importance.
"""

import torch
from torch import Tensor

FIRST_CAPACITY_TOKENS = 64
REANCHOR_NATS = 30.0  # no stored factor exceeds e^30, no read one falls below e^-30: exact in fp32 and in bf16
SETTLE_NATS = 10.0


class KeyValueCache:
    """Keys and values of attention."""

    def __init__(
        self, batch: int, heads: int, key_width: int, value_width: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.length = 0
        self._has_padding = False
        self._keys = torch.empty(batch, 0, heads, key_width, device=device, dtype=dtype)
        self._values = torch.empty(batch, 0, heads, value_width, device=device, dtype=dtype)
        self._is_token = torch.empty(batch, 0, device=device, dtype=torch.bool)

    def append(
        self, k_BLHK: Tensor, v_BLHJ: Tensor, is_token_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take the new tokens in; return all keys, all values, and which of them every new query sees, (B, L, M).

        None instead of the last: a single query that sees all.
        """
        start, self.length = self.length, self.length + k_BLHK.shape[1]
        capacity = max(FIRST_CAPACITY_TOKENS, self._keys.shape[1])
        while capacity < self.length:
            capacity *= 2
        if capacity > self._keys.shape[1]:
            self._keys, self._values = _grown(self._keys, capacity), _grown(self._values, capacity)
            self._is_token = _grown(self._is_token, capacity)
        self._keys[:, start : self.length] = k_BLHK
        self._values[:, start : self.length] = v_BLHJ
        self._is_token[:, start : self.length] = True if is_token_BL is None else is_token_BL

        self._has_padding = self._has_padding or is_token_BL is not None
        if self.length == start + 1 and not self._has_padding:
            return self._keys[:, : self.length], self._values[:, : self.length], None
        position_M = torch.arange(self.length, device=k_BLHK.device)
        query_L1 = position_M[start:, None]
        # Padding sees itself, so that no row of weights is empty and nan; no token ever sees padding.
        is_visible_BLM = (position_M < query_L1) & self._is_token[:, None, : self.length] | (position_M == query_L1)
        return self._keys[:, : self.length], self._values[:, : self.length], is_visible_BLM


class SisaCache(KeyValueCache):
    """Keys and values of SISA, with the sums that its logits need.

    decay_BH: nats of decay since the start. In float64, as it is small and sums up many tokens.
    phase_BHP: sums of phase steps modulo 2 pi.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        key_width: int,
        value_width: int,
        num_phases: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(batch, heads, key_width, value_width, device, dtype)
        self.content_width = value_width
        self.decay_BH = torch.zeros(batch, heads, device=device, dtype=torch.float64)
        wide = torch.promote_types(dtype, torch.float32)
        self.phase_BHP = torch.zeros(batch, heads, num_phases, device=device, dtype=wide)

    def since(self, decay_BLH: Tensor) -> Tensor:
        """Take in the decay of new tokens, summed up from the first; return the sums since the start, (B, L, H)."""
        since_BLH = self.decay_BH[:, None] + decay_BLH
        self.decay_BH = since_BLH[:, -1]
        return since_BLH


class AnchoredCache(SisaCache):
    """The same for the importance term: decay_BH counts from the anchor that a head's stored keys refer to."""

    def since(self, decay_BLH: Tensor) -> Tensor:
        """Take in the decay of the first n >= 1 new tokens; return the sums since the anchor, (B, n, H), <= 30 nats.

        A head that the first token takes beyond the limit is anchored at that token: its stored keys take up the
        factor, exp(-sum), and thus only ever shrink. Heads that have decayed by 10 nats join in, which saves moves;
        below that a key still matters, and rounding it again and again would not be exact in bf16.
        """
        since_BLH = self.decay_BH[:, None] + decay_BLH
        first_BH = since_BLH[:, 0]
        if (first_BH > REANCHOR_NATS).any():
            moved_BH = torch.where(first_BH > SETTLE_NATS, first_BH, 0.0)
            self._move_keys((-moved_BH).exp().to(self._keys.dtype))
            since_BLH = since_BLH - moved_BH[:, None]
        if since_BLH.shape[1] > 1:  # one token is always taken, without asking the device
            is_near_L = (since_BLH <= REANCHOR_NATS).all(dim=-1).all(dim=0)
            since_BLH = since_BLH[:, : max(1, int(is_near_L.sum()))]
        self.decay_BH = since_BLH[:, -1]
        return since_BLH

    def _move_keys(self, factor_BH: Tensor) -> None:
        """Multiply what stored keys have of the decay."""
        importance_BMHS = self._keys[:, : self.length, :, self.content_width :]
        importance_BMHS *= factor_BH[:, None, :, None]


class ChannelCache(AnchoredCache):
    """The same where every channel of content decays: H counts the channels of all heads, each with its anchor."""

    def __init__(self, batch: int, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(batch, heads, width, width, 0, device, dtype)
        self.decay_BH, self.phase_BHP = (x.repeat_interleave(width, dim=1) for x in (self.decay_BH, self.phase_BHP))

    def _move_keys(self, factor_BH: Tensor) -> None:
        keys_BMHK = self._keys[:, : self.length]
        keys_BMHK *= factor_BH.view(len(keys_BMHK), 1, *keys_BMHK.shape[2:])


def _grown(buffer: Tensor, capacity: int) -> Tensor:
    grown = buffer.new_zeros(buffer.shape[0], capacity, *buffer.shape[2:])
    grown[:, : buffer.shape[1]] = buffer
    return grown
