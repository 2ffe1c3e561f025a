"""What decoding keeps of the tokens so far.

Keys and values lie in buffers that double when full: a token is then copied about once on average, where
concatenation would copy the whole past for every new token.

Shapes: B batch, L new tokens, M tokens so far, G heads of keys and values, K channels of keys, J of values, P phases,
S importance.
"""

import torch
from torch import Tensor

FIRST_CAPACITY_TOKENS = 64
REANCHOR_NATS = 30.0  # no stored factor exceeds e^30, no read one falls below e^-30: exact in fp32 and in bf16
SETTLE_NATS = 10.0


class KeyValueCache:
    """Keys and values of attention, of as many heads as keys have; in a window only what later tokens may see."""

    def __init__(
        self,
        batch: int,
        heads: int,
        key_width: int,
        value_width: int,
        device: torch.device,
        dtype: torch.dtype,
        window_tokens: int | None = None,
    ) -> None:
        self.length, self.window_tokens = 0, window_tokens
        self._has_padding = False
        self._keys = torch.empty(batch, 0, heads, key_width, device=device, dtype=dtype)
        self._values = torch.empty(batch, 0, heads, value_width, device=device, dtype=dtype)
        self._is_token = torch.empty(batch, 0, device=device, dtype=torch.bool)

    def append(
        self, k_BLGK: Tensor, v_BLGJ: Tensor, is_token_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take the new tokens in; return all keys, all values, and which of them every new query sees, (B, L, M).

        None instead of the last: a single query that sees all.
        """
        self._forget()
        start, self.length = self.length, self.length + k_BLGK.shape[1]
        capacity = max(FIRST_CAPACITY_TOKENS, self._keys.shape[1])
        while capacity < self.length:
            capacity *= 2
        if capacity > self._keys.shape[1]:
            self._keys, self._values = _grown(self._keys, capacity), _grown(self._values, capacity)
            self._is_token = _grown(self._is_token, capacity)
        self._keys[:, start : self.length] = k_BLGK
        self._values[:, start : self.length] = v_BLGJ
        self._is_token[:, start : self.length] = True if is_token_BL is None else is_token_BL

        self._has_padding = self._has_padding or is_token_BL is not None
        is_cut = self.window_tokens is not None and self.length > self.window_tokens
        if self.length == start + 1 and not self._has_padding and not is_cut:
            return self._keys[:, : self.length], self._values[:, : self.length], None
        position_M = torch.arange(self.length, device=k_BLGK.device)
        query_L1 = position_M[start:, None]
        # Padding sees itself, so that no row of weights is empty and nan; no token ever sees padding.
        is_visible_BLM = (position_M < query_L1) & self._is_token[:, None, : self.length] | (position_M == query_L1)
        if self.window_tokens is not None:
            is_visible_BLM = is_visible_BLM & (query_L1 - position_M < self.window_tokens)
        return self._keys[:, : self.length], self._values[:, : self.length], is_visible_BLM

    def _forget(self) -> None:
        """Drop what no later token sees, once in as many tokens as the window has: the rest is copied.

        Places count from the first token that is left; only differences of places act.
        """
        if self.window_tokens is None or self.length < 2 * self.window_tokens:
            return
        kept = slice(self.length - self.window_tokens + 1, self.length)
        self._keys, self._values = self._keys[:, kept].clone(), self._values[:, kept].clone()
        self._is_token, self.length = self._is_token[:, kept].clone(), self.window_tokens - 1


class SisaCache(KeyValueCache):
    """Keys and values of SISA, with the sums that its logits need.

    decay_BG: nats of decay since the start. In float64, as it is small and sums up many tokens.
    phase_BGP: sums of phase steps modulo 2 pi.
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
        window_tokens: int | None = None,
    ) -> None:
        super().__init__(batch, heads, key_width, value_width, device, dtype, window_tokens)
        self.content_width = value_width
        self.decay_BG = torch.zeros(batch, heads, device=device, dtype=torch.float64)
        wide = torch.promote_types(dtype, torch.float32)
        self.phase_BGP = torch.zeros(batch, heads, num_phases, device=device, dtype=wide)

    def since(self, decay_BLG: Tensor) -> Tensor:
        """Take in the decay of new tokens, summed up from the first; return the sums since the start, (B, L, G)."""
        since_BLG = self.decay_BG[:, None] + decay_BLG
        self.decay_BG = since_BLG[:, -1]
        return since_BLG


class AnchoredCache(SisaCache):
    """The same for the importance term: decay_BG counts from the anchor that a head's stored keys refer to."""

    def since(self, decay_BLG: Tensor) -> Tensor:
        """Take in the decay of the first n >= 1 new tokens; return the sums since the anchor, (B, n, G), <= 30 nats.

        A head that the first token takes beyond the limit is anchored at that token: its stored keys take up the
        factor, exp(-sum), and thus only ever shrink. Heads that have decayed by 10 nats join in, which saves moves;
        below that a key still matters, and rounding it again and again would not be exact in bf16.
        """
        since_BLG = self.decay_BG[:, None] + decay_BLG
        first_BG = since_BLG[:, 0]
        if (first_BG > REANCHOR_NATS).any():
            moved_BG = torch.where(first_BG > SETTLE_NATS, first_BG, 0.0)
            self._move_keys((-moved_BG).exp().to(self._keys.dtype))
            since_BLG = since_BLG - moved_BG[:, None]
        if since_BLG.shape[1] > 1:  # one token is always taken, without asking the device
            is_near_L = (since_BLG <= REANCHOR_NATS).all(dim=-1).all(dim=0)
            since_BLG = since_BLG[:, : max(1, int(is_near_L.sum()))]
        self.decay_BG = since_BLG[:, -1]
        return since_BLG

    def _move_keys(self, factor_BG: Tensor) -> None:
        """Multiply what stored keys have of the decay."""
        importance_BMGS = self._keys[:, : self.length, :, self.content_width :]
        importance_BMGS *= factor_BG[:, None, :, None]


class ChannelCache(AnchoredCache):
    """The same where every channel of content decays: decay_BG counts those of all heads, each with its anchor."""

    def __init__(
        self,
        batch: int,
        heads: int,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        window_tokens: int | None = None,
    ) -> None:
        super().__init__(batch, heads, width, width, 0, device, dtype, window_tokens)
        self.decay_BG, self.phase_BGP = (x.repeat_interleave(width, dim=1) for x in (self.decay_BG, self.phase_BGP))

    def _move_keys(self, factor_BG: Tensor) -> None:
        keys_BMGK = self._keys[:, : self.length]
        keys_BMGK *= factor_BG.view(len(keys_BMGK), 1, *keys_BMGK.shape[2:])


def _grown(buffer: Tensor, capacity: int) -> Tensor:
    grown = buffer.new_zeros(buffer.shape[0], capacity, *buffer.shape[2:])
    grown[:, : buffer.shape[1]] = buffer
    return grown
