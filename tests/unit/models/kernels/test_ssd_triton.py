"""Which scan a name stands for, and how ours is put in the terms of mamba-ssm's. The real kernel: tests/gpu."""

import sys
import types

import pytest
import torch
from torch import Tensor

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError
from sisa_scale.models.kernels.ssd import ssd
from sisa_scale.models.kernels.ssd_triton import scan_kernel


def test_pytorch_needs_nothing() -> None:
    assert scan_kernel("pytorch") is None


def test_a_machine_without_a_gpu_has_no_use_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scan_kernel("mamba_ssm") is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(ConfigError, match=r"state_space_kernel: found mamba_ssm.*Write pytorch.*pip install mamba-ssm"):
        scan_kernel("mamba_ssm")


def test_mamba3_has_no_such_kernel() -> None:
    with pytest.raises(ConfigError, match=r"mamba_ssm with mamba3.*Write pytorch"):
        load_config("mamba3/50m.yaml", ["execution.state_space_kernel=mamba_ssm"])
    load_config("jamba/50m.yaml", ["execution.state_space_kernel=mamba_ssm"])


def as_documented(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int,
    *, initial_states: Tensor | None, seq_idx: Tensor | None, return_final_states: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What mamba-ssm says of mamba_chunk_scan_combined: h_t = exp(dt A) h_{t-1} + dt B x^T, states (B, H, P, N)."""
    assert return_final_states and chunk_size > 0 and seq_idx is None
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2) for t in (B, C))
    state = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]) if initial_states is None else initial_states
    ys = []
    for t in range(x.shape[1]):
        state = state * (dt[:, t] * A).exp()[..., None, None] + torch.einsum(
            "bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t]
        )
        ys.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    return torch.stack(ys, 1), state


@pytest.mark.parametrize("is_continued", [False, True])
def test_the_kernel_is_given_what_it_documents(monkeypatch: pytest.MonkeyPatch, is_continued: bool) -> None:
    module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = as_documented
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kernel = scan_kernel("mamba_ssm")
    assert kernel is not None

    generator = torch.Generator().manual_seed(0)
    x, keys, queries = (torch.randn(2, 11, n, 5, generator=generator).double() for n in (4, 2, 2))
    decay = -torch.rand(2, 11, 4, generator=generator).double()
    decay[:, 3] = 0.0  # a token that does not decay enters the state all the same
    state = torch.randn(2, 4, 5, 5, generator=generator).double() if is_continued else None
    expected = ssd(x, decay, keys, queries, chunk_tokens=4, initial_state=state)
    found = kernel(x, decay, keys, queries, chunk_tokens=4, initial_state=state, document_BL=None)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
