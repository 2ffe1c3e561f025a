"""How SISA is computed at a length, and what would make it one call."""

import re

import pytest

from sisa_scale.planning.attention_calls import attention_calls
from sisa_scale.planning.twins import load_recipe

LONG = "max_length_tokens=16384", "sequence_tokens=16384", "micro_batch_sequences=1"


def calls(recipe: str, *overrides: str) -> tuple[str, int, str | None] | None:
    model = load_recipe(recipe, overrides).config
    found = attention_calls(model.model, model.data.sequence_tokens)
    return (found.form, found.calls, found.why) if found else None


def test_one_call_is_the_rule() -> None:
    assert calls("sisa/152m") == ("single_call", 1, None)
    assert calls("hymba/152m-sisa") == ("single_call", 1, None)
    assert calls("jamba/152m-sisa") == ("single_call", 1, None)
    assert calls("transformer/152m") is calls("hymba/152m") is None


def test_what_auto_says_makes_it_one_call() -> None:
    found = calls("sisa/152m", *LONG)
    assert found is not None and found[:2] == ("query_blocks", 128)
    bias = re.search(r"decay_bias_init below (-?[\d.]+)", str(found[2]))
    assert bias is not None
    assert calls("sisa/152m", *LONG, f"decay_bias_init={float(bias[1]) - 0.01}") == ("single_call", 1, None)
    assert calls("sisa/152m", *LONG, "decay_range_nats=160") == ("single_call", 1, None)


@pytest.mark.parametrize(
    ("override", "expected", "why"),
    [
        (("trained_length_tokens=2048", "rope.scaling=yarn"), 8, "over trained_length_tokens 2048"),
        (("form=query_blocks", "block_tokens=512"), 32, "no bound"),
    ],
)
def test_blocks_have_their_reason(override: tuple[str, ...], expected: int, why: str) -> None:
    found = calls("sisa/152m", *LONG, *override)
    assert found is not None
    assert found[:2] == ("query_blocks", expected)
    assert why in str(found[2])
