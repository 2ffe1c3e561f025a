"""Readings of SISA's layers: against the logits written out, and the shares of a gradient against autograd."""

import dataclasses
from typing import Any

import pytest
import torch
from sisa_reference import LENGTH, WIDTH, angles, build, dots, parts, rates, turns
from torch.nn.functional import softplus
from zoo import decoder, tiny

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.models.monitors import GradientShares, phase_change, read_layer

BLOCKS = SisaConfig(d_s=16, form="query_blocks", block_tokens=32)
MODELS: dict[str, Any] = {
    name: tiny(name) for name in ("sisa", "jamba sisa", "pattern", "hymba sisa", "hymba sisa local")
}
MODELS["query blocks"] = dataclasses.replace(tiny("sisa"), sisa=BLOCKS)
MODELS["hymba query blocks"] = dataclasses.replace(tiny("hymba sisa"), sisa=BLOCKS)
MODELS["no decay"] = dataclasses.replace(tiny("sisa"), sisa=SisaConfig(d_s=16, decay_kind="none"))


@pytest.mark.parametrize("nats", [0.05, 8.0])
@pytest.mark.parametrize("is_separate", [False, True])
def test_the_largest_logits_are_those_of_the_definition(nats: float, is_separate: bool) -> None:
    torch.manual_seed(0)
    mixer = build(nats * LENGTH, form="query_blocks").double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    document = (torch.arange(LENGTH) >= 40).long().expand(2, -1) if is_separate else None
    with torch.no_grad():
        found = read_layer(
            mixer.logit_parts(x, turns(dtype=torch.float64), document), softplus(mixer.lambda_raw), document
        )
        q, k, *_ = ((x @ rows.T).view(2, LENGTH, 2, -1) for rows in parts(mixer, mixer.project.weight)[:2])
        d_h = WIDTH // 2
        decay, phase = rates(mixer, x)
        g = -decay.cumsum(-1)
        content = dots(q[..., :d_h], k[..., :d_h], angles().double()[None, :, None].expand(2, -1, 2, -1)) / d_h**0.5
        factor = (g[..., :, None] - g[..., None, :]).clamp(max=0).exp() * softplus(mixer.lambda_raw)[:, None, None]
        importance = factor * dots(q[..., d_h:], k[..., d_h:], phase.cumsum(1))
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if is_separate:
        seen = seen & ((torch.arange(LENGTH) >= 40)[:, None] == (torch.arange(LENGTH) >= 40))
    assert found.largest_content_logit == pytest.approx((content.abs() * seen).max().item())
    assert found.largest_importance_logit == pytest.approx((importance.abs() * seen).max().item())
    assert found.norm_c == pytest.approx(q[..., d_h:].norm(dim=-1).mean().item())
    assert found.norm_b == pytest.approx(k[..., d_h:].norm(dim=-1).mean().item())
    if not is_separate:
        assert torch.allclose(found.last_phase_BHP, phase.sum(1))


@pytest.mark.parametrize("name", MODELS)
def test_every_mixer_with_importance_is_read(name: str) -> None:
    model, tokens = decoder(MODELS[name]), torch.randint(0, 100, (1, 64))
    before = model.monitor(tokens)
    assert len(before) == {"jamba sisa": 1, "pattern": 2}.get(name, 4)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("project.weight"):
                parameter.add_(0.01)
    for old, new in zip(before, model.monitor(tokens), strict=True):
        assert phase_change(old, old) == 0
        assert phase_change(old, new) > 0
        assert new.largest_importance_logit > 0 and new.largest_content_logit > 0
        assert new.norm_b > 0 and new.norm_c > 0


@pytest.mark.parametrize("name", MODELS)
def test_shares_are_those_of_the_gradient(name: str) -> None:
    model, tokens = decoder(MODELS[name]), torch.randint(0, 100, (2, 65))
    shares = GradientShares(model)

    def backward() -> None:
        model.zero_grad()
        model(tokens[:, :-1], tokens[:, 1:]).backward()

    backward()
    assert shares.take() is None
    untouched = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    shares.read_next()
    backward()
    assert all(map(torch.equal, untouched, (p.grad for p in model.parameters() if p.grad is not None)))
    found = shares.take()
    assert found is not None and shares.take() is None
    assert sum(found.values()) == pytest.approx(1.0)
    squares = {n: p.grad.double().square().sum().item() for n, p in model.named_parameters() if p.grad is not None}
    total = sum(squares.values())
    for group, of in {"embedding": ("embedding.weight", "meta"), "lambda": ("lambda_raw",)}.items():
        assert found[group] == pytest.approx(sum(s for n, s in squares.items() if n.endswith(of)) / total)
    fused = [
        n
        for n in squares
        if n.endswith("project.weight") and n.removesuffix("project.weight") + "lambda_raw" in squares
    ]
    if fused:  # but for Hymba, whose projection has another path's rows
        own = sum(found[group] for group in ("q", "k", "v", "C", "B", "decay", "phase"))
        assert own == pytest.approx(sum(squares[n] for n in fused) / total)
