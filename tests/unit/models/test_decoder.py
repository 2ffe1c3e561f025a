import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.models.decoder import Decoder

BuildDecoder = Callable[..., Decoder]
KINDS = pytest.mark.parametrize("kind", ["sisa", "transformer"])


def weights(model: Decoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@KINDS
@pytest.mark.parametrize("setting", ["selective", "full", 1, 2])
def test_recomputation_changes_nothing(
    build_decoder: BuildDecoder, tokens: Tensor, kind: str, setting: str | int
) -> None:
    results = []
    for activation_checkpointing in ("none", setting):
        model = build_decoder(kind, activation_checkpointing=activation_checkpointing)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        assert isinstance(loss, Tensor)
        loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("setting", "layers"), [("none", []), ("full", [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])]
)
def test_which_layers_are_recomputed(setting: str | int, layers: list[int]) -> None:
    execution = ExecutionConfig(micro_batch_sequences=1, activation_checkpointing=setting)
    assert [layer for layer in range(5) if execution.recomputation(layer) == "full"] == layers


@KINDS
def test_initial_weights_are_a_function_of_the_seed_alone(build_decoder: BuildDecoder, kind: str) -> None:
    model, other = build_decoder(kind), build_decoder(kind)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    other.initialise(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(other).keys() == weights(model).keys()
    assert all(torch.equal(w, weights(model)[name]) for name, w in weights(other).items())
    other.initialise(1)
    changed = {name for name, w in weights(other).items() if not torch.equal(w, weights(model)[name])}
    assert changed == {name for name, w in weights(model).items() if w.dim() == 2}


def test_no_two_matrices_share_their_numbers(build_decoder: BuildDecoder) -> None:
    beginnings = [tuple(w.flatten()[:4].tolist()) for w in weights(build_decoder()).values() if w.dim() == 2]
    assert len(set(beginnings)) == len(beginnings)


@KINDS
def test_initial_values(build_decoder: BuildDecoder, kind: str) -> None:
    model = build_decoder(kind, d_model=128, d_ff=256, vocab_size=1000)
    for name, weight in weights(model).items():
        if "norm" in name:
            assert (weight == 1).all()
        elif name.endswith("decay_bias"):
            assert (weight == -5).all()
        elif name.endswith("lambda_raw"):
            assert (weight == -1).all()
        elif name.endswith("project.weight"):
            first_phase = 2 * (64 + 16) * 2 + 128 + 2  # after queries, keys, values and decays
            assert weight[:first_phase].std().item() == pytest.approx(0.02, rel=0.03)
            assert weight[first_phase:].std().item() == pytest.approx(0.01, rel=0.1)
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.03)
            assert abs(weight.mean().item()) < 0.001


def test_half_life_and_lambda_at_the_start(build_decoder: BuildDecoder, tokens: Tensor) -> None:
    model = build_decoder(max_length_tokens=2048)
    readings = model.monitor(tokens)
    assert len(readings) == len(model.blocks)
    for reading in readings:
        assert reading.half_life_tokens == pytest.approx(math.log(2) / math.log1p(math.exp(-5)), rel=0.1)
        assert reading.lambda_H == pytest.approx([math.log1p(math.exp(-1))] * 2)
    assert reading.lambda_H[0] == pytest.approx(0.3133, abs=1e-4)
    assert not any(block.mixer._forward_pre_hooks for block in model.blocks)


def test_a_transformer_has_nothing_to_monitor(build_decoder: BuildDecoder, tokens: Tensor) -> None:
    assert build_decoder("transformer").monitor(tokens[:, :-1]) == []


@KINDS
def test_the_longest_sequence_is_the_configured_one(build_decoder: BuildDecoder, tokens: Tensor, kind: str) -> None:
    model = build_decoder(kind, max_length_tokens=64)
    assert model.hidden(tokens[:, :64]).shape == (2, 64, 32)
    with pytest.raises(ValueError, match="length 65 exceeds max_length_tokens 64"):
        model.hidden(tokens)


@KINDS
def test_the_residual_stream_is_in_the_compute_type(build_decoder: BuildDecoder, tokens: Tensor, kind: str) -> None:
    model = build_decoder(kind)
    assert model.hidden(tokens[:, 1:]).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model.hidden(tokens[:, 1:]).dtype == torch.bfloat16
        assert model(tokens[:, :-1], tokens[:, 1:]).dtype == torch.float32


@KINDS
def test_every_weight_gets_a_gradient(build_decoder: BuildDecoder, tokens: Tensor, kind: str) -> None:
    model = build_decoder(kind)
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
