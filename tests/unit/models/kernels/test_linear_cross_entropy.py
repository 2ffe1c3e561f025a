"""The chunked loss and its gradients against torch's own on whole logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from sisa_scale.models.kernels.linear_cross_entropy import (
    IGNORED_TARGET,
    _fusible,
    _in_few_passes,
    linear_cross_entropy,
)

TOKENS, WIDTH, VOCAB, ROWS = 37, 24, 50, 64


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(ROWS, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    return x, weight, torch.randint(0, VOCAB, (TOKENS,), generator=generator)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 37, 100])
@pytest.mark.parametrize("has_ignored", [False, True])
def test_equals_cross_entropy_of_whole_logits(chunk_tokens: int, has_ignored: bool) -> None:
    x, weight, targets = inputs(torch.float64)
    if has_ignored:
        targets[::3] = IGNORED_TARGET
    expected = cross_entropy(x @ weight[:VOCAB].T, targets, reduction="sum", ignore_index=IGNORED_TARGET)
    found = linear_cross_entropy(x, weight, targets, vocab_size=VOCAB, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(0.3 * found, (x, weight)), torch.autograd.grad(0.3 * expected, (x, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("vocab", [VOCAB, ROWS])
def test_the_z_loss_acts_on_gradients_and_leaves_the_value(vocab: int) -> None:
    x, weight, targets = inputs(torch.float64)
    targets[::3] = IGNORED_TARGET
    logits = x @ weight[:vocab].T
    entropy = cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED_TARGET)
    squares = logits.logsumexp(-1).square()[targets != IGNORED_TARGET].sum()
    found = linear_cross_entropy(x, weight, targets, vocab_size=vocab, chunk_tokens=7, z_loss_weight=0.3)
    torch.testing.assert_close(found, entropy, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(entropy + 0.3 * squares, (x, weight))
    for ours, theirs in zip(torch.autograd.grad(found, (x, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_unused_rows_get_an_exact_zero_gradient() -> None:
    x, weight, targets = inputs(torch.float32)
    (gradient,) = torch.autograd.grad(
        linear_cross_entropy(x, weight, targets, vocab_size=VOCAB, chunk_tokens=8), (weight,)
    )
    assert not gradient[VOCAB:].any()
    assert gradient[:VOCAB].any()


def test_only_ignored_targets_give_zero() -> None:
    x, weight, targets = inputs(torch.float32)
    loss = linear_cross_entropy(x, weight, torch.full_like(targets, IGNORED_TARGET), vocab_size=VOCAB, chunk_tokens=8)
    gradients = torch.autograd.grad(loss, (x, weight))
    assert loss.item() == 0.0
    assert not any(gradient.any() for gradient in gradients)


def test_without_gradients_the_loss_is_the_same() -> None:
    x, weight, targets = inputs(torch.float64)
    with torch.no_grad():
        alone = linear_cross_entropy(x, weight, targets, vocab_size=VOCAB, chunk_tokens=8)
    trained = linear_cross_entropy(x, weight, targets, vocab_size=VOCAB, chunk_tokens=8)
    torch.testing.assert_close(alone, trained, rtol=1e-12, atol=0.0)


def test_under_autocast_gradients_keep_the_dtypes_of_their_tensors() -> None:
    x, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, targets, vocab_size=VOCAB, chunk_tokens=8)
    expected = cross_entropy(x @ weight[:VOCAB].T, targets, reduction="sum")
    gradients = torch.autograd.grad(loss, (x, weight))
    assert loss.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0.0)
    torch.testing.assert_close(gradients[1], torch.autograd.grad(expected, weight)[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("vocab", [VOCAB, ROWS])
def test_both_ways_to_the_gradient_agree(vocab: int) -> None:
    logits, targets = torch.randn(TOKENS, ROWS, dtype=torch.float64), torch.randint(0, VOCAB, (TOKENS,))
    targets[::3] = IGNORED_TARGET
    for z_loss_weight in (0.0, 0.3):
        found, expected = (way(logits, targets, vocab, z_loss_weight) for way in (_fusible, _in_few_passes))
        torch.testing.assert_close(found, expected)


def test_a_loss_without_gradients_makes_none() -> None:
    x, weight, targets = inputs(torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        linear_cross_entropy(x.detach(), weight, targets, vocab_size=VOCAB, chunk_tokens=8)
    assert counter.get_total_flops() == 2 * TOKENS * WIDTH * ROWS
