"""Which kernel a name stands for, and what flash-linear-attention's is given, by what its documentation says."""

import sys
import types
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError
from sisa_scale.models.kernels.delta_rule import delta_rule
from sisa_scale.models.kernels.delta_rule_fla import delta_rule_kernel

NAME = "flash_linear_attention"


def test_nothing_is_needed_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delta_rule_kernel("pytorch") is delta_rule_kernel("mamba_ssm") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert delta_rule_kernel(NAME) is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(ConfigError, match=r"found flash_linear_attention.*Write pytorch.*pip install flash-linear"):
        delta_rule_kernel(NAME)


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("mamba2/50m", [], "flash_linear_attention with mamba2.*serves the recurrences of gated_deltanet"),
        ("gated_deltanet/50m", ["precision=fp32"], "16-bit floats"),
        ("gated_deltanet/50m", ["determinism=strict"], "tuned by timing"),
        ("gated_deltanet/50m", ["state_space_kernel=mamba_ssm"], "serves the recurrences of mamba2, hymba"),
    ],
)
def test_what_it_does_not_serve(recipe: str, settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(recipe, [f"state_space_kernel={NAME}", *settings])


def as_documented(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor,
    *, scale: float, initial_state: Tensor, output_final_state: bool, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the package says of chunk_gated_delta_rule: (B, T, H, K or V), states (N, H, K, V) of N sequences."""
    assert output_final_state and scale == 1.0 and q.dtype == k.dtype == v.dtype == torch.bfloat16
    rows = [(b, slice(None)) for b in range(len(q))]
    if cu_seqlens is not None:
        rows = [(0, slice(int(a), int(b))) for a, b in pairwise(cu_seqlens)]
    assert len(initial_state) == len(rows)
    parts = [
        delta_rule(*(x[b : b + 1, at] for x in (v, g, beta, k, q)), chunk_tokens=16, initial_state=state[None])
        for (b, at), state in zip(rows, initial_state, strict=True)
    ]
    dim = 0 if cu_seqlens is None else 1
    return torch.cat([y for y, _ in parts], dim), torch.cat([state for _, state in parts])


@pytest.mark.parametrize("is_apart", [False, True])
def test_the_kernel_is_given_what_it_documents(monkeypatch: pytest.MonkeyPatch, is_apart: bool) -> None:
    module = types.ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = as_documented
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kernel = delta_rule_kernel(NAME)
    assert kernel is not None

    values = torch.randn(2, 40, 4, 5).bfloat16()
    decay, rate = -torch.rand(2, 40, 4), torch.rand(2, 40, 4)
    keys, queries = torch.randn(2, 2, 40, 2, 8).div(3).bfloat16().unbind(0)
    document = torch.tensor([[0] * 9 + [1] * 31, [0] * 20 + [1] + [2] * 19]) if is_apart else None
    state = torch.zeros(2, 4, 8, 5) if is_apart else torch.randn(2, 4, 8, 5)
    tensors = (values, decay, rate, keys, queries)
    expected = delta_rule(*tensors, chunk_tokens=16, initial_state=state, document_BL=document)
    for got, wanted in zip(kernel(*tensors, state, document), expected, strict=True):
        torch.testing.assert_close(got.float(), wanted.float(), rtol=0.03, atol=0.03)
