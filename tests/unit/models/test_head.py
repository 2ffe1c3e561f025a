import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sisa_scale.models.decoder import Decoder
from sisa_scale.models.head import IGNORED_TARGET, TokenScores

BuildDecoder = Callable[..., Decoder]


def loss_and_gradients(
    model: Decoder, tokens: Tensor, targets: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(tokens[:, :-1], tokens[:, 1:]) if targets is None else model(tokens, targets)
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["sisa", "transformer"])
def test_padding_rows_do_not_count(build_decoder: BuildDecoder, tokens: Tensor, kind: str) -> None:
    exact, padded = build_decoder(kind), build_decoder(kind, vocab_multiple=128)
    assert padded.embedding.weight.shape[0] == 128
    padded.embedding.weight.data.fill_(9.0)[:50] = exact.embedding.weight.data
    loss, gradients = loss_and_gradients(exact, tokens)
    padded_loss, padded_gradients = loss_and_gradients(padded, tokens)
    torch.testing.assert_close(padded_loss, loss)
    assert (padded_gradients["embedding.weight"][50:] == 0).all()
    padded_gradients["embedding.weight"] = padded_gradients["embedding.weight"][:50]
    torch.testing.assert_close(padded_gradients, gradients)


@pytest.mark.parametrize("chunk", [1, 7, 64, 127, 128])
def test_chunks_change_nothing(build_decoder: BuildDecoder, tokens: Tensor, chunk: int) -> None:
    whole = loss_and_gradients(build_decoder(), tokens)
    chunked = loss_and_gradients(build_decoder(loss_chunk_tokens=chunk), tokens)
    torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("chunk", [4096, 10])
def test_scores_are_those_of_the_logits(build_decoder: BuildDecoder, tokens: Tensor, chunk: int) -> None:
    model, inputs, targets = build_decoder(loss_chunk_tokens=chunk), tokens[:, :-1], tokens[:, 1:].clone()
    logits = model.hidden(inputs) @ model.embedding.weight.T
    targets[0, ::3] = logits.argmax(-1)[0, ::3]
    scores = model(inputs, targets, per_token=True)
    assert isinstance(scores, TokenScores)
    expected = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(scores.log_probability_BL, expected)
    assert torch.equal(scores.is_greedy_BL, logits.argmax(-1) == targets)
    assert scores.is_greedy_BL[0, ::3].all()
    assert not scores.is_greedy_BL.all()
    torch.testing.assert_close(model(inputs, targets), -expected.mean())


def test_an_untrained_model_guesses(build_decoder: BuildDecoder, tokens: Tensor) -> None:
    assert build_decoder()(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(math.log(50), abs=0.1)


def test_the_head_is_the_embedding(build_decoder: BuildDecoder) -> None:
    model = build_decoder()
    assert model.head.weight is model.embedding.weight
    assert [name for name, _ in model.named_parameters() if name.startswith("head")] == []


@pytest.mark.parametrize("chunk", [4096, 10])
def test_ignored_targets_do_not_count(build_decoder: BuildDecoder, tokens: Tensor, chunk: int) -> None:
    model, inputs, targets = build_decoder(loss_chunk_tokens=chunk), tokens[:, :-1], tokens[:, 1:].clone()
    is_kept = torch.rand(targets.shape) < 0.3
    whole = model(inputs, targets, per_token=True)
    targets[~is_kept] = IGNORED_TARGET
    torch.testing.assert_close(model(inputs, targets), -whole.log_probability_BL[is_kept].mean())
    scores = model(inputs, targets, per_token=True)
    torch.testing.assert_close(scores.log_probability_BL[is_kept], whole.log_probability_BL[is_kept])
    assert (scores.log_probability_BL[~is_kept] == 0).all()
    assert not scores.is_greedy_BL[~is_kept].any()


@pytest.mark.parametrize("chunk", [4096, 10])
def test_no_target_at_all_is_no_loss(build_decoder: BuildDecoder, tokens: Tensor, chunk: int) -> None:
    model = build_decoder(loss_chunk_tokens=chunk)
    loss, gradients = loss_and_gradients(model, tokens[:, :-1], torch.full_like(tokens[:, 1:], IGNORED_TARGET))
    assert loss.item() == 0.0
    assert all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("length", [3, 49, 63])
def test_the_mean_over_all_targets_is_divided_once(build_decoder: BuildDecoder, tokens: Tensor, length: int) -> None:
    model, inputs, targets = build_decoder(), tokens[:, :length], tokens[:, 1 : length + 1]
    logits = model.head.logits(model.hidden(inputs)).flatten(0, 1)
    loss_sum = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
    assert torch.equal(model(inputs, targets), loss_sum / targets.numel())
