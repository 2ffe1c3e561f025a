"""Reading with a decoder: whole sequences, or what follows the tokens of a cache; padding has no influence.

Shapes: B batch, L length, D width.
"""

import torch
from torch import Tensor, nn

from sisa_scale.conversion.hub.arguments import two_dimensional
from sisa_scale.conversion.hub.cache_sisa_scale import SisaScaleCache
from sisa_scale.models.decoder import Decoder


def is_causal(model: Decoder) -> bool:
    """Return whether no later token reaches an earlier one: so it is but for the published form of SISA."""
    sisa = model.config.sisa
    return sisa is None or sisa.form != "published"


def read_on(model: Decoder, tokens_BL: Tensor, mask: Tensor | None, cache: SisaScaleCache) -> Tensor:
    """Return what the head reads, x_BLD, of tokens after those in the cache."""
    length = tokens_BL.shape[1]
    is_token_BL = None if mask is None else two_dimensional(mask)[:, -length:]
    if is_token_BL is not None:
        if (is_token_BL[:, :-1] & ~is_token_BL[:, 1:]).any():
            raise ValueError("padding stands before the tokens of a row: set tokenizer.padding_side = 'left'")
        if not is_token_BL[:, -1].all():
            raise ValueError("a row without a token has nothing to continue")
        if is_token_BL.all():
            is_token_BL = None
    if cache.decoder is None:
        cache.decoder = model.new_cache(tokens_BL.shape[0], tokens_BL.device)
    x_BLD = model.extend_hidden(tokens_BL, cache.decoder, is_token_BL)
    cache.num_tokens += length
    return x_BLD


def read_whole(model: Decoder, tokens_BL: Tensor, mask: Tensor | None, has_states: bool) -> list[Tensor]:
    """Return the states without a cache; padding is not read, and has states of 0."""
    is_token_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if mask is None else two_dimensional(mask)
    if mask is None or bool(is_token_BL.all()):
        return _read(model, tokens_BL, has_states)
    if is_causal(model) and not (~is_token_BL[:, :-1] & is_token_BL[:, 1:]).any():
        # Nothing after the tokens reaches them.
        states = _read(model, tokens_BL.masked_fill(~is_token_BL, 0), has_states)
        return [x_BLD.masked_fill(~is_token_BL.to(x_BLD.device)[..., None], 0.0) for x_BLD in states]
    rows = []
    for tokens_L, is_token_L in zip(tokens_BL, is_token_BL, strict=True):
        places = is_token_L.nonzero()[:, 0]
        if len(places) and int(places[-1] - places[0]) + 1 != len(places):
            raise ValueError("padding stands before or after the tokens of a row, not between them")
        first, num_tokens = (int(places[0]), len(places)) if len(places) else (0, 1)
        after = len(tokens_L) - first - num_tokens
        read = _read(model, tokens_L[None, first : first + num_tokens], has_states)
        padded = [nn.functional.pad(x_BLD, (0, 0, first, after)) for x_BLD in read]
        rows.append(padded if len(places) else [torch.zeros_like(x_BLD) for x_BLD in padded])
    return [torch.cat(states) for states in zip(*rows, strict=True)]


def _read(model: Decoder, tokens_BL: Tensor, has_states: bool) -> list[Tensor]:
    states: list[Tensor] = []
    num_meta = model.config.num_meta_tokens

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0][:, num_meta:])

    hooks = [block.register_forward_pre_hook(keep) for block in model.blocks] if has_states else []
    try:
        last = model.hidden(tokens_BL)
        return [*states, last]
    finally:
        for hook in hooks:
            hook.remove()
