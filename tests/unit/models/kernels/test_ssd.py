"""The chunked form against the recurrence it stands for."""

import pytest
import torch
from torch import Tensor

from sisa_scale.models.kernels.ssd import TokenWeights, _added, _scores, ssd, ssd_step

HEADS, WIDTH, STATE = 4, 5, 6


def recurrence(
    x: Tensor,
    log_decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    state: Tensor | None = None,
    weights: TokenWeights | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(a_t) h_{t-1} + w_t B_t x_t^T, y_t = C_t^T (exp(a_t) h_{t-1} + u_t B_t x_t^T), by token, in float64."""
    later, own = (t.detach().double() for t in weights or TokenWeights(*[torch.ones_like(log_decay)] * 2))
    x, log_decay, keys, queries = (t.detach().double() for t in (x, log_decay, keys, queries))
    batch, rows, heads, width = x.shape
    tokens = log_decay.shape[1]
    keys, queries = (t.repeat_interleave(heads // t.shape[2], 2) for t in (keys, queries))
    x, keys, queries = (t.reshape(batch, tokens, rows // tokens, heads, -1) for t in (x, keys, queries))
    h = torch.zeros(batch, heads, keys.shape[-1], width).double() if state is None else state.detach().double()
    ys = []
    for t in range(tokens):
        before = h * log_decay[:, t].exp()[..., None, None]
        token = torch.stack([keys[:, t, r, :, :, None] * x[:, t, r, :, None] for r in range(rows // tokens)]).sum(0)
        h, read = (before + w[:, t, :, None, None] * token for w in (later, own))
        ys.append(torch.stack([(queries[:, t, r, :, :, None] * read).sum(2) for r in range(rows // tokens)], 1))
    return torch.cat(ys, 1), h


def inputs(length: int, groups: int, rank: int = 1, total_nats: float = 5.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    decay = -2 * torch.rand(2, length, HEADS) * total_nats / length
    keys, queries = torch.randn(2, 2, length * rank, groups, STATE)
    return torch.randn(2, length * rank, HEADS, WIDTH), decay, keys, queries


def weights_of(log_decay: Tensor, is_weighted: bool) -> TokenWeights | None:
    return TokenWeights(*torch.rand(2, *log_decay.shape, dtype=log_decay.dtype)) if is_weighted else None


@pytest.mark.parametrize("is_continued", [False, True])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("groups", [1, 2, HEADS])
@pytest.mark.parametrize("chunk", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("length", [1, 2, 16, 37])
def test_chunks_are_the_recurrence(length: int, chunk: int, groups: int, is_weighted: bool, is_continued: bool) -> None:
    x, decay, keys, queries = (t.double() for t in inputs(length, groups))
    state = torch.randn(2, HEADS, STATE, WIDTH).double() if is_continued else None
    weights = weights_of(decay, is_weighted)
    y, final = ssd(x, decay, keys, queries, chunk_tokens=chunk, initial_state=state, weights=weights)
    expected, expected_final = recurrence(x, decay, keys, queries, state, weights)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(final, expected_final, rtol=0, atol=1e-10)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("length", [1, 5, 37])
def test_rows_of_a_token_share_its_decay_and_see_each_other(length: int, is_weighted: bool) -> None:
    x, decay, keys, queries = (t.double() for t in inputs(length, HEADS, rank=3))
    weights = weights_of(decay, is_weighted)
    y, final = ssd(x, decay, keys, queries, chunk_tokens=8, weights=weights)
    expected, expected_final = recurrence(x, decay, keys, queries, weights=weights)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(final, expected_final, rtol=0, atol=1e-10)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_step_is_the_recurrence(is_weighted: bool) -> None:
    x, decay, keys, queries = (t.double() for t in inputs(1, 1))
    state = torch.randn(2, HEADS, STATE, WIDTH).double()
    weights = weights_of(decay, is_weighted)
    y, final = ssd_step(x, decay[:, 0], keys, queries, state, weights)
    expected, expected_final = recurrence(x, decay, keys, queries, state, weights)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(final, expected_final, rtol=0, atol=1e-12)


def test_a_sequence_may_be_cut_anywhere() -> None:
    tensors = tuple(t.double() for t in inputs(37, 1))
    whole, final = ssd(*tensors, chunk_tokens=8)
    parts, state = [], None
    for start, end in ((0, 1), (1, 20), (20, 37)):
        y, state = ssd(*(t[:, start:end] for t in tensors), chunk_tokens=8, initial_state=state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, final, rtol=0, atol=1e-10)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_gradients_are_those_of_the_recurrence(is_weighted: bool) -> None:
    tensors = [t.double().requires_grad_() for t in inputs(7, 1)]
    state = torch.randn(2, HEADS, STATE, WIDTH).double().requires_grad_()
    weights = [t.requires_grad_() for t in torch.rand(2, 2, 7, HEADS).double()] if is_weighted else []

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        own = TokenWeights(*given[5:]) if is_weighted else None
        return ssd(*given[:4], chunk_tokens=3, initial_state=given[4], weights=own)

    assert torch.autograd.gradcheck(run, (*tensors, state, *weights), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nats", [300.0, 30000.0])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_strong_decays_stay_finite(dtype: torch.dtype, nats: float, is_weighted: bool) -> None:
    x, decay, keys, queries = inputs(64, 1, total_nats=nats)
    tensors = [t.requires_grad_() for t in (x.to(dtype), decay, keys.to(dtype), queries.to(dtype))]
    weights = weights_of(decay, is_weighted)
    y, final = ssd(*tensors, chunk_tokens=16, weights=weights)
    expected, _ = recurrence(*tensors, weights=weights)
    # Differences of sums carry the rounding of the sums: 1e-7 of the nats of a chunk, here a quarter of all.
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-6 + 1e-7 * nats / 4
    assert ((y.double() - expected).norm() / expected.norm()).item() < tolerance
    (y.float().square().sum() + final.square().sum()).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)


def test_decays_keep_their_precision_under_autocast() -> None:
    # In bf16 a decay near 1 would be 1, or off by 0.4 %: after 512 tokens nothing would be right.
    x, decay, keys, queries = inputs(512, 1, total_nats=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        y, final = ssd(x, decay, keys, queries, chunk_tokens=64)
    expected, expected_final = recurrence(x, decay, keys, queries)
    assert y.dtype == final.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(final.double(), expected_final, rtol=1e-4, atol=1e-4)


def test_the_result_and_the_state_are_wide() -> None:
    x, decay, keys, queries = inputs(20, 1)
    for length in (1, 20):
        tensors = (t[:, :length] for t in (x.bfloat16(), decay, keys, queries))
        y, final = ssd(*tensors, chunk_tokens=8)
        assert (y.dtype, final.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("length", [1, 5, 37])
def test_a_skip_adds_every_row_to_its_own_output(length: int, rank: int) -> None:
    x, decay, keys, queries = (t.double() for t in inputs(length, HEADS, rank))
    skip_H = torch.randn(HEADS).double()
    y, final = ssd(x, decay, keys, queries, chunk_tokens=8, skip_H=skip_H)
    expected, expected_final = recurrence(x, decay, keys, queries)
    torch.testing.assert_close(y, expected + skip_H[:, None] * x, rtol=0, atol=1e-10)
    torch.testing.assert_close(final, expected_final, rtol=0, atol=1e-10)


def test_gradients_of_keys_lie_as_keys_do() -> None:
    keys, queries = torch.randn(2, 2, HEADS, 3, 16, STATE).unbind(0)
    x_BGECQP = torch.randn(2, HEADS, 1, 3, 16, WIDTH)
    for product, others in ((_scores, (queries, keys)), (_added, (keys, x_BGECQP))):
        given = [t.clone().requires_grad_() for t in others]
        result = product(*given)
        gradients = torch.autograd.grad(result, given, torch.randn_like(result))
        assert all(gradient.stride() == t.stride() for gradient, t in zip(gradients, given, strict=True))


@pytest.mark.parametrize("groups", [1, 2, HEADS])
def test_gradients_of_products_are_right(groups: int) -> None:
    keys, queries = torch.randn(2, 1, groups, 2, 3, STATE, dtype=torch.float64, requires_grad=True).unbind(0)
    x_BGECQP = torch.randn(1, groups, HEADS // groups, 2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_scores, (queries, keys))
    assert torch.autograd.gradcheck(_added, (keys, x_BGECQP))
