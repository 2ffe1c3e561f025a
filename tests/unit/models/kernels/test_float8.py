"""Dense products in 8-bit floats: how exact they are, what they leave alone, and that models learn with them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy

from sisa_scale.models.activation_checkpointing import selective_policy
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.float8 import float8_linear, use_float8
from sisa_scale.models.kernels.fused_linear import FusedLinear

# A rounding is wrong by at most half a step of the mantissa, 2^-4 and 2^-3 of a number with 3 and 2 bits. Roundings of
# many numbers go either way: evenly spread over a step, and over the binade, they are wrong by 0.6 of that in the mean
# square, at most, and those of both factors of a product add as squares.
VALUES_ERROR, GRADIENTS_ERROR = 0.6 * 2**-4, 0.6 * 2**-3
SIZES = {"x": (4, 32, 96), "weight": (80, 96), "gradient": (4, 32, 80)}


def tensors(scale: float = 1.0, weight_scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, gradient = (torch.randn(size) for size in SIZES.values())
    return (scale * x).bfloat16(), weight_scale * weight, gradient.bfloat16()


def passes(x: Tensor, weight: Tensor, gradient: Tensor, product: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Return the output and both gradients."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = product(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), gradient.to(y.dtype))


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def test_products_are_as_exact_as_their_mantissas() -> None:
    x, weight, gradient = tensors()
    found = passes(x, weight, gradient, float8_linear)
    exact = passes(x.double(), weight.double(), gradient.double(), nn.functional.linear)
    bounds = [2**0.5 * VALUES_ERROR, *[(VALUES_ERROR**2 + GRADIENTS_ERROR**2) ** 0.5] * 2]
    for got, want, bound in zip(found, exact, bounds, strict=True):
        assert bound / 3 < error(got, want) < bound
    assert [got.dtype for got in found] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_padding_rows_are_zeros_without_a_gradient() -> None:
    x, weight, gradient = tensors()
    plain = passes(x, weight, gradient, float8_linear)
    wider = torch.cat((gradient, torch.full((4, 32, 16), 0.1)), dim=-1).bfloat16()
    padded = passes(x, weight, wider, lambda x, weight: float8_linear(x, weight, 16))
    assert torch.equal(padded[0][..., :80], plain[0])
    assert not padded[0][..., 80:].any()
    assert torch.equal(padded[1], plain[1])
    assert torch.equal(padded[2], plain[2])


@pytest.mark.parametrize("name", ["x", "weight", "gradient"])
def test_zeros_give_zeros(name: str) -> None:
    given = dict(zip(SIZES, tensors(), strict=True))
    given[name].zero_()
    y, x_gradient, weight_gradient = passes(*given.values(), float8_linear)
    assert not (y.any() if name != "gradient" else y.isnan().any())
    assert not (x_gradient.any() if name != "x" else x_gradient.isnan().any())
    assert not (weight_gradient.any() if name != "weight" else weight_gradient.isnan().any())


@pytest.mark.parametrize(("scale", "weight_scale"), [(1e30, 1e-3), (1e-30, 1.0), (1e-9, 1e-9), (1e-3, 1e30)])
def test_huge_and_tiny_numbers_stay_finite(scale: float, weight_scale: float) -> None:
    found = passes(*tensors(scale, weight_scale), float8_linear)
    assert all(bool(tensor.isfinite().all()) for tensor in found)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e9])
def test_scales_take_out_the_magnitude(scale: float) -> None:
    x, weight, gradient = tensors(scale)
    found = passes(x, weight, gradient, float8_linear)
    exact = passes(x.double(), weight.double(), gradient.double(), nn.functional.linear)
    for got, want in zip(found, exact, strict=True):
        assert error(got, want) < 0.1


def test_small_gradients_beside_large_ones_are_kept() -> None:
    x, weight, gradient = tensors()
    gradient[0, 0] *= 1e-6
    _, found, _ = passes(x, weight, gradient, float8_linear)
    _, exact, _ = passes(x.double(), weight.double(), gradient.double(), nn.functional.linear)
    assert error(found[0, 0], exact[0, 0]) < 0.15


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_what_is_not_finite_is_seen(broken: float) -> None:
    x, weight, _ = tensors()
    x[0, 0, 0] = broken
    assert float8_linear(x, weight.requires_grad_()).isnan().any()


def test_without_gradients_products_are_in_bf16() -> None:
    x, weight, _ = tensors()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(float8_linear(x, weight), nn.functional.linear(x, weight))


def test_layers_that_do_not_fit_are_left_and_named() -> None:
    blocks = nn.ModuleList(
        nn.ModuleDict(
            {
                "fit": nn.Linear(32, 48, bias=False),
                "odd": nn.Linear(32, 40, bias=False),
                "narrow": nn.Linear(24, 48, bias=False),
                "biased": nn.Linear(32, 48),
                "fused": FusedLinear(32, [3, 7]),
                "norm": nn.LayerNorm(32),
            }
        )
        for _ in range(2)
    )
    plain = copy.deepcopy(blocks)
    modules = use_float8(blocks)
    assert modules.taken == ("0.fit", "0.fused", "1.fit", "1.fused")
    expected = {
        "odd": "40 x 32 is not in multiples of 16",
        "narrow": "48 x 24 is not in multiples of 16",
        "biased": "has a bias",
    }
    assert modules.left == {f"{block}.{name}": why for block in range(2) for name, why in expected.items()}
    for (name, module), other in zip(blocks.named_modules(), plain.modules(), strict=True):
        if isinstance(module, nn.Linear):
            x = torch.randn(16, module.in_features)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(module(x), other(x)) == (name in modules.left)


BuildDecoder = Callable[..., Decoder]


def gradients(model: Decoder, tokens: Tensor) -> tuple[float, Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_weights_and_scores_are_those_without_it(build_decoder: BuildDecoder, tokens: Tensor) -> None:
    plain, model = build_decoder(), build_decoder()
    modules = use_float8(model.blocks)
    assert modules.left == {}
    names = ["mixer.project", "mixer.out", "mlp.gate_up", "mlp.down"]
    assert modules.taken == tuple(f"{block}.{name}" for block in range(2) for name in names)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True))
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in model.named_modules()]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain.hidden(tokens[:, :-1]), model.hidden(tokens[:, :-1]))
    copied = copy.deepcopy(model)
    torch.nn.init.zeros_(copied.blocks[0].mlp.down.weight)
    assert gradients(copied, tokens)[0] != gradients(model, tokens)[0] != gradients(plain, tokens)[0]


@pytest.mark.parametrize("kind", ["transformer", "sisa"])
@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputation_changes_no_gradient(build_decoder: BuildDecoder, tokens: Tensor, kind: str, how: str) -> None:
    losses, found = [], []
    for setting in ("none", how):
        model = build_decoder(kind, activation_checkpointing=setting)
        use_float8(model.blocks)
        loss, gradient = gradients(model, tokens)
        losses.append(loss)
        found.append(gradient)
    assert losses[0] == losses[1]
    assert torch.equal(*found)


def test_selective_recomputation_keeps_the_products() -> None:
    assert selective_policy(None, torch.ops.aten._scaled_mm.default) == CheckpointPolicy.MUST_SAVE


@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_compiled_blocks_compute_the_same(build_decoder: BuildDecoder, tokens: Tensor, how: str) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    from sisa_scale.training.engine.compile import compile_blocks

    eager, compiled = build_decoder(activation_checkpointing=how), build_decoder(activation_checkpointing=how)
    counter = CompileCounterWithBackend("aot_eager_decomp_partition")
    for model in (eager, compiled):
        use_float8(model.blocks)
    compile_blocks(compiled.blocks, backend=counter)
    (loss, gradient), (compiled_loss, compiled_gradient) = (gradients(model, tokens) for model in (eager, compiled))
    assert counter.frame_count == 1
    assert compiled_loss == pytest.approx(loss, abs=2e-3)
    # A number that bf16 rounds otherwise may be rounded to another number of 8 bits.
    assert error(compiled_gradient, gradient) < 0.1


def test_a_model_learns_as_well(build_decoder: BuildDecoder) -> None:
    generator = torch.Generator().manual_seed(0)
    successor = torch.randperm(50, generator=generator)
    losses = []
    for is_float8 in (False, True):
        model = build_decoder()
        if is_float8:
            use_float8(model.blocks)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(60):
            tokens = [torch.randint(0, 50, (4, 1), generator=torch.Generator().manual_seed(1))]
            for _ in range(32):
                tokens.append(successor[tokens[-1]])
            optimizer.zero_grad()
            loss, _ = gradients(model, torch.cat(tokens, dim=1))
            optimizer.step()
        losses.append(loss)
    assert losses[0] < 0.1  # from ln 50
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
