"""query_blocks against the definition in float64 at any decay: training forward, gradients, cache, documents, bf16."""

from typing import Any

import pytest
import torch
from sisa_reference import LENGTH, WIDTH, angles, build, leak, rates, reference, turns
from torch import Tensor

from sisa_scale.models.mixers.sisa import Sisa

DECAYS = [0.01, 0.1, 0.6, 0.8, 2.0, 8.0, 300.0]  # nats a token
FORMS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"activation": "sigmoid"},
    "no rotation": {"has_rotation": False},
    "normalized": {"normalize_importance": True},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def decaying(nats: float, block: int = 16, **sisa: Any) -> Sisa:
    """Return a mixer in float64 whose tokens decay by about so many nats, the heads and tokens by more and by less."""
    mixer = build(nats * LENGTH, form="query_blocks", block_tokens=block, **sisa).double()
    with torch.no_grad():
        mixer.decay_bias += torch.tensor([-0.5, 0.5])
        mixer.project.rows()[3].mul_(5)
    return mixer


def decoded(mixer: Sisa, x: Tensor, split: list[int]) -> Tensor:
    cache = mixer.new_cache(x.shape[0], x.device, x.dtype)
    turned = turns(x.shape[1], x.dtype)[:, None].split(split, 2)
    return torch.cat([mixer.extend(a, cache, b) for a, b in zip(x.split(split, 1), turned, strict=True)], 1)


@pytest.mark.parametrize("nats", DECAYS)
@pytest.mark.parametrize("name", FORMS)
def test_forward_and_cache_are_the_definition_at_any_decay(name: str, nats: float) -> None:
    x = torch.randn(2, LENGTH, WIDTH).double()
    for block in (1, 13, 16, 64, 128):
        mixer = decaying(nats, block, **FORMS[name])
        decay, _ = rates(mixer, x)
        assert decay.mean().item() == pytest.approx(nats, rel=0.6)
        wanted = reference(mixer, x, angles())
        for length in (1, block, block + 1, LENGTH):
            found = mixer(x[:, :length], turns(dtype=torch.float64)[:, :length])
            torch.testing.assert_close(found, wanted[:, :length], rtol=0, atol=1e-10)
    for split in ([LENGTH], [7, 1, 1, 30, 1, 16, 40], [1] * LENGTH):
        torch.testing.assert_close(decoded(mixer, x, split), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nats", DECAYS)
def test_gradients_do_not_depend_on_the_block(nats: float) -> None:
    x, found = torch.randn(1, LENGTH, WIDTH).double(), []
    direction = torch.randn(1, LENGTH, WIDTH).double()
    for block in (LENGTH, 16, 13):  # the first has explicit logits alone
        mixer = decaying(nats, block)
        (mixer(x, turns(dtype=torch.float64)) * direction).sum().backward()
        found.append({name: p.grad for name, p in mixer.named_parameters() if p.grad is not None})
    for other in found[1:]:
        for name, wanted in found[0].items():
            assert wanted.isfinite().all()
            assert (other[name] - wanted).norm() <= 1e-10 * wanted.norm() + 1e-14, name


@pytest.mark.parametrize("nats", DECAYS)
@pytest.mark.parametrize("name", FORMS)
def test_documents_are_read_as_if_alone_at_any_decay(name: str, nats: float) -> None:
    mixer, x = decaying(nats, **FORMS[name]), torch.randn(2, LENGTH, WIDTH).double()
    ends = [[5, 40, 41], [48, 90]]
    document = torch.stack([(torch.arange(LENGTH)[:, None] >= torch.tensor(row)).sum(1) for row in ends])
    starts = torch.stack([torch.tensor([0, *row])[d] for row, d in zip(ends, document, strict=True)])
    x.requires_grad_()
    packed = mixer(x, turns(dtype=torch.float64)[:, torch.arange(LENGTH) - starts], document)
    packed.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    for row, cuts in enumerate(ends):
        for part, own in zip(x[row].detach().tensor_split(cuts), packed[row].tensor_split(cuts), strict=True):
            wanted = reference(mixer, part[None], angles(len(part)))[0]
            torch.testing.assert_close(own, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nats", DECAYS)
def test_no_gradient_comes_from_later_inputs_at_any_decay(nats: float) -> None:
    mixer, x = decaying(nats), torch.randn(2, LENGTH, WIDTH).double()
    for cut in (1, 16, 40, 48):
        assert leak(mixer, x, cut) == 0.0


@pytest.mark.parametrize("backend", ["math", "flash_padded"])
@pytest.mark.parametrize("nats", DECAYS)
def test_single_and_half_precision_are_close_at_any_decay(nats: float, backend: str) -> None:
    exact = decaying(nats, backend=backend)
    wanted = reference(exact, x := torch.randn(2, LENGTH, WIDTH), angles())
    mixer = exact.float()
    with torch.no_grad():
        assert (mixer(x, turns()) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(x, turns())
    half.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
    assert (half - wanted).norm() <= 2e-2 * wanted.norm()
