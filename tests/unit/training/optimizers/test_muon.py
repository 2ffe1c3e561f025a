"""A step of Muon on one worker, against the update written out; many workers: tests/multiprocess/test_muon_runs.py."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from zoo import TINY, decoder, tiny

from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.row_parts import row_parts
from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.engine.fragments import matrices_of
from sisa_scale.training.engine.optimizers import build_optimizer, set_learning_rate
from sisa_scale.training.optimizers.matrix_exchange import Held
from sisa_scale.training.optimizers.muon import Muon
from sisa_scale.training.optimizers.newton_schulz import orthogonalized

RATE, DECAY = 1e-2, 0.2
MULTIPLIED = ("project.weight", "qkv.weight", "out.weight", "gate_up.weight", "down.weight")


@pytest.fixture(scope="module")
def alone() -> Iterator[Communicator]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Communicator(0, 0, 1, torch.device("cpu"))
    dist.destroy_process_group()


def make(name: str, alone: Communicator, *, nesterov: bool = True) -> tuple[Decoder, Muon]:
    model = decoder(tiny(name))
    config = OptimizerConfig(kind="muon", learning_rate=RATE, weight_decay=DECAY, nesterov=nesterov)
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, Muon)
    weights = dict(model.named_parameters())
    shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
    matrices = matrices_of(model, shapes, config.spec.whole(shapes))
    held = [Held(n, 0, matrix.size, 0, weights[matrix.name], 0) for n, matrix in enumerate(matrices)]
    optimizer.place(matrices, held, alone)
    set_learning_rate(optimizer, RATE)
    return model, optimizer


def draw(model: Decoder, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", TINY)
def test_hidden_matrices_and_no_others_are_muons(name: str, alone: Communicator) -> None:
    model, optimizer = make(name, alone)
    by_id = {id(weight): key for key, weight in model.named_parameters()}
    groups = {group["name"]: {by_id[id(weight)] for weight in group["params"]} for group in optimizer.param_groups}
    assert all(key.startswith("blocks.") and key.endswith(MULTIPLIED) for key in groups["hidden"])
    others = groups["matrices"] - {"embedding.weight", "meta"}
    assert all(key.endswith("conv.weight") for key in others)
    assert set().union(*groups.values()) == set(by_id.values())


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("name", ["transformer", "sisa", "hymba sisa", "mamba3 mimo"])
def test_two_steps_are_those_written_out(name: str, nesterov: bool, alone: Communicator) -> None:
    model, optimizer = make(name, alone, nesterov=nesterov)
    hidden = {id(weight) for group in optimizer.param_groups if group["name"] == "hidden" for weight in group["params"]}
    expected = {key: weight.detach().clone() for key, weight in model.named_parameters() if id(weight) in hidden}
    momenta = {key: torch.zeros_like(weight) for key, weight in expected.items()}
    fused = row_parts(model)
    for seed in (1, 2):
        gradients = draw(model, seed)
        optimizer.step()
        for key, weight in expected.items():
            weight.mul_(1 - RATE * DECAY)
            momenta[key] = 0.95 * momenta[key] + 0.05 * gradients[key]
            update = 0.05 * gradients[key] + 0.95 * momenta[key] if nesterov else momenta[key]
            rows = torch.arange(len(weight))[:, None]
            for part in [part.of(rows).flatten() for part in fused[key].values()] if key in fused else [rows.flatten()]:
                scale = 0.2 * math.sqrt(max(len(part), weight.shape[1]))
                weight[part] -= RATE * scale * orthogonalized(update[part])
    found = dict(model.named_parameters())
    for key, weight in expected.items():
        torch.testing.assert_close(found[key].detach(), weight, rtol=0, atol=1e-5)


def test_updates_are_as_large_as_those_of_adamw(alone: Communicator) -> None:
    model, optimizer = make("transformer", alone)
    before = {key: weight.detach().clone() * (1 - RATE * DECAY) for key, weight in model.named_parameters()}
    draw(model, 3)
    optimizer.step()
    for key, weight in model.named_parameters():
        if weight.dim() == 2 and key.startswith("blocks."):
            rms = (weight.detach() - before[key]).square().mean().sqrt() / RATE
            assert 0.13 < rms < 0.24, key


def test_other_weights_take_the_steps_of_adamw(alone: Communicator) -> None:
    model, optimizer = make("hymba sisa", alone)
    other = decoder(tiny("hymba sisa"))
    adamw = build_optimizer(other, OptimizerConfig(learning_rate=RATE, weight_decay=DECAY))
    set_learning_rate(adamw, RATE)
    for seed in (1, 2):
        draw(model, seed), draw(other, seed)
        optimizer.step(), adamw.step()
    hidden = {id(weight) for group in optimizer.param_groups if group["name"] == "hidden" for weight in group["params"]}
    for (key, weight), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, reference) == (id(weight) not in hidden), key


def test_a_refused_step_changes_nothing(alone: Communicator) -> None:
    model, optimizer = make("sisa", alone)
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(weight, was) for weight, was in zip(model.parameters(), before, strict=True))
