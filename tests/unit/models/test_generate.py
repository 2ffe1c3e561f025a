"""Decoding with a cache gives what one forward pass gives, for every architecture."""

import pytest
import torch
from zoo import TINY, decoder, tiny

from sisa_scale.models.decoder import Decoder
from sisa_scale.models.generate import generate

LENGTH = 90


def all_logits(model: Decoder, tokens_BL: torch.Tensor) -> torch.Tensor:
    return model.head.logits(model.hidden(tokens_BL))


@pytest.mark.parametrize("name", TINY)
def test_token_by_token_is_one_pass(name: str) -> None:
    model = decoder(tiny(name)).eval()
    tokens = torch.randint(0, 100, (2, LENGTH))
    expected = all_logits(model, tokens)
    cache = model.new_cache(2)
    torch.testing.assert_close(model.extend(tokens[:, :37], cache), expected[:, 36], rtol=1e-4, atol=1e-5)
    for position in range(37, LENGTH):
        logits = model.extend(tokens[:, position : position + 1], cache)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_padded_prompts_give_what_each_gives_alone(name: str) -> None:
    model = decoder(tiny(name)).eval()
    prompts = [torch.randint(0, 100, (length,)).tolist() for length in (5, 23, 1)]
    together = generate(model, prompts, max_tokens=8, eos_id=-1)
    alone = [generate(model, [prompt], max_tokens=8, eos_id=-1)[0] for prompt in prompts]
    assert together == alone
    assert all(len(row) == 8 for row in together)


def test_generation_ends_at_the_end_of_a_document_and_at_the_longest_sequence() -> None:
    model = decoder(tiny("sisa")).eval()
    row = generate(model, [[1, 2, 3]], max_tokens=8, eos_id=-1)[0]
    assert generate(model, [[1, 2, 3]], max_tokens=8, eos_id=row[4])[0] == row[: row.index(row[4])]
    with pytest.raises(ValueError, match="max_length_tokens"):
        generate(model, [[1] * 250], max_tokens=20, eos_id=-1)


def test_sampling_repeats_with_its_seed() -> None:
    model = decoder(tiny("sisa")).eval()
    first, again, other = (
        generate(model, [[1, 2, 3]], max_tokens=20, eos_id=-1, temperature=1.0, top_k=50, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other
