"""Text from a model: one token after the other, with a cache that is exact for every mixer.

Shapes: B prompts, L tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sisa_scale.models.decoder import Decoder


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    eos_id: int,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
) -> list[list[int]]:
    """Return the new tokens of every prompt (token ids, one or more each), up to and without the end-of-document id.

    temperature 0 takes the most probable token; top_k 0 samples from all. Prompts of different lengths are padded on
    the left and give what each gives alone. Raises ValueError below 0, and when a row would outgrow the model's longest
    sequence.
    """
    if not (temperature >= 0 and top_k >= 0):
        raise ValueError(f"temperature {temperature} and top_k {top_k}: both are at least 0")
    generator = torch.Generator(model.embedding.weight.device).manual_seed(seed)
    tokens_BL, is_token_BL = pad_left(prompts, model.embedding.weight.device)
    cache = model.new_cache(len(prompts))
    logits_BV = model.extend(tokens_BL, cache, None if is_token_BL.all() else is_token_BL)
    rows: list[list[int]] = [[] for _ in prompts]
    is_done = [False] * len(prompts)
    for step in range(max_tokens):
        next_B = _choose(logits_BV, temperature, top_k, generator)
        for row, token in enumerate(next_B.tolist()):
            is_done[row] = is_done[row] or token == eos_id
            if not is_done[row]:
                rows[row].append(token)
        if all(is_done) or step == max_tokens - 1:
            break
        logits_BV = model.extend(next_B[:, None], cache)
    return rows


def pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens_BL and is_token_BL, every prompt at the right end of its row."""
    length = max(len(prompt) for prompt in prompts)
    padded = [[0] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    is_token = [[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(is_token, device=device)


def _choose(logits_BV: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    if top_k:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)[:, 0]
