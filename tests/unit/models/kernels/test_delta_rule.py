"""The chunked delta rule against its recurrence, token by token in float64."""

import pytest
import torch
from torch import Tensor

from sisa_scale.models.kernels.delta_rule import carried_states, delta_rule, delta_rule_step, unit_lower_inverse

HEADS, KEY_WIDTH, WIDTH = 4, 8, 5


def inputs(length: int, groups: int = 2, nats: float = 0.1) -> tuple[Tensor, ...]:
    """Return values, log-decays, rates, keys and queries, in float64."""
    values = torch.randn(2, length, HEADS, WIDTH).double()
    log_decay, rate = -nats * torch.rand(2, length, HEADS).double(), torch.rand(2, length, HEADS).double()
    keys, queries = torch.randn(2, 2, length, groups, KEY_WIDTH).double().unbind(0)
    return values, log_decay, rate, keys / keys.norm(dim=-1, keepdim=True), queries


def recurrence(
    values: Tensor, log_decay: Tensor, rate: Tensor, keys: Tensor, queries: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """S <- a S; S <- S + b k (v - S^T k)^T; y = S^T q, all in float64."""
    values, log_decay, rate, keys, queries = (x.detach().double() for x in (values, log_decay, rate, keys, queries))
    keys, queries = (x.repeat_interleave(HEADS // x.shape[2], dim=2) for x in (keys, queries))
    state = torch.zeros(len(values), HEADS, KEY_WIDTH, WIDTH).double() if state is None else state.double()
    outputs = []
    for t in range(values.shape[1]):
        state = log_decay[:, t].exp()[..., None, None] * state
        held = (state * keys[:, t, :, :, None]).sum(2)
        state = state + keys[:, t, :, :, None] * (rate[:, t, :, None] * (values[:, t] - held))[:, :, None]
        outputs.append((state * queries[:, t, :, :, None]).sum(2))
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("groups", [1, 2, HEADS])
@pytest.mark.parametrize("chunk", [8, 16, 64])
@pytest.mark.parametrize("length", [1, 5, 64, 150])
def test_it_is_the_recurrence(length: int, chunk: int, groups: int) -> None:
    tensors, state = inputs(length, groups), torch.randn(2, HEADS, KEY_WIDTH, WIDTH).double()
    for found, expected in zip(
        delta_rule(*tensors, chunk_tokens=chunk, initial_state=state), recurrence(*tensors, state), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_step_is_the_recurrence() -> None:
    values, log_decay, rate, keys, queries = tensors = inputs(1)
    state = torch.randn(2, HEADS, KEY_WIDTH, WIDTH).double()
    found = delta_rule_step(values, log_decay[:, 0], rate[:, 0], keys, queries, state)
    for got, wanted in zip(found, recurrence(*tensors, state), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)


def test_gradients_are_those_of_the_recurrence() -> None:
    tensors = [x.requires_grad_() for x in (*inputs(19), torch.randn(2, HEADS, KEY_WIDTH, WIDTH).double())]

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        return delta_rule(*given[:5], chunk_tokens=8, initial_state=given[5])

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)


def test_gradients_of_the_inverse_and_of_states_are_right() -> None:
    earlier = torch.randn(2, 16, 16).double().tril(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_lower_inverse(x.tril(-1)), earlier)
    shapes = ((2, 3, 4, 4), (2, 3, 4, 5), (2, 4, 5))
    assert torch.autograd.gradcheck(carried_states, [torch.randn(s).double().requires_grad_() for s in shapes])


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_equal_keys_are_inverted_as_exactly_as_others(rate: float) -> None:
    # A run of one token has equal keys. The finite product over all 64 is off by 1e2 and 1e9 here, in float32.
    earlier = torch.full((64, 64), rate).tril(-1)
    exact = torch.linalg.inv(torch.eye(64).double() + earlier.double())
    torch.testing.assert_close(unit_lower_inverse(earlier).double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nats", [0.0, 0.1, 300.0])
@pytest.mark.parametrize("repeats", [False, True])
def test_any_decay_and_repeated_keys_stay_near_the_recurrence(dtype: torch.dtype, nats: float, repeats: bool) -> None:
    values, log_decay, rate, keys, queries = inputs(150, HEADS, nats)
    keys = keys[:, :1].expand_as(keys) if repeats else keys
    tensors = [x.to(dtype).requires_grad_() for x in (values, keys, queries)]
    decays = [x.float().requires_grad_() for x in (log_decay, rate)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y, state = delta_rule(tensors[0], *decays, *tensors[1:], chunk_tokens=64)
    expected, _ = recurrence(tensors[0], *decays, *tensors[1:])
    assert state.dtype == torch.float32
    # Differences of sums carry the rounding of the sums: 1e-7 of the nats of a chunk.
    bound = 0.02 if dtype == torch.bfloat16 else 1e-6 + 1e-7 * nats
    assert ((y.double() - expected).norm() / expected.norm()).item() < bound
    y.float().square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (*tensors, *decays))


def test_documents_begin_with_no_state() -> None:
    tensors, state = inputs(70), torch.randn(2, HEADS, KEY_WIDTH, WIDTH).double()
    lengths = [3, 5, 8, 16, 1, 37]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, -1)
    y, last = delta_rule(*tensors, chunk_tokens=16, initial_state=state, document_BL=document)
    parts = [recurrence(*(x[:, document[0] == d] for x in tensors), state if d == 0 else None) for d in range(6)]
    torch.testing.assert_close(y, torch.cat([part for part, _ in parts], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(last, parts[-1][1], rtol=0, atol=1e-12)
