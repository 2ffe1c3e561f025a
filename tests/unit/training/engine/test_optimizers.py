import math

import pytest
import torch
from torch.optim import AdamW
from zoo import TINY, decoder, tiny

from sisa_scale.config import load_config
from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.optimizers import build_optimizer, set_learning_rate

SMALL = ["d_model=32", "num_layers=2", "num_heads=2", "d_ff=48", "vocab_size=50"]
OPTIMIZER = ["beta1=0.8", "beta2=0.9", "optimizer.epsilon=1e-7", "weight_decay=0.2", "learning_rate=1e-3"]
Made = tuple[Decoder, AdamW]


def make(*overrides: str) -> Made:
    config = load_config("quickstart", [*SMALL, *OPTIMIZER, *overrides]).config
    model = Decoder(config.model, config.execution, "math")
    model.initialise(0)
    return model, build_optimizer(model, config.optimizer)


def names(made: Made) -> dict[str, set[str]]:
    by_id = {id(p): name.rpartition("mixer.")[2] for name, p in made[0].named_parameters()}
    return {group["name"]: {by_id[id(p)] for p in group["params"]} for group in made[1].param_groups}


def test_every_parameter_is_in_one_group() -> None:
    model, optimizer = make()
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_groups() -> None:
    made = make()
    groups = names(made)
    assert groups["lambda"] == {"lambda_raw"}
    assert "decay_bias" in groups["vectors"]
    assert all("norm" in name or name == "decay_bias" for name in groups["vectors"])
    assert {"embedding.weight", "project.weight", "out.weight"} <= groups["matrices"]
    assert not any("norm" in name for name in groups["matrices"])
    settings = {group["name"]: (group["weight_decay"], group["rate_scale"]) for group in made[1].param_groups}
    assert settings == {"matrices": (0.2, 1.0), "vectors": (0.0, 1.0), "lambda": (0.0, 0.1)}
    assert all((g["betas"], g["eps"], g["lr"]) == ((0.8, 0.9), 1e-7, 1e-3) for g in made[1].param_groups)


def test_a_transformer_has_no_lambda() -> None:
    assert set(names(make("model.kind=transformer", "model.sisa=null"))) == {"matrices", "vectors"}


@pytest.mark.parametrize("scale", [0.1, 1.0, 0.0])
def test_the_schedule_reaches_every_group(scale: float) -> None:
    _, optimizer = make(f"lambda_learning_rate_scale={scale}")
    set_learning_rate(optimizer, 2e-3)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"matrices": 2e-3, "vectors": 2e-3, "lambda": 2e-3 * scale}


def test_a_step_decays_matrices_alone_and_lambda_moves_slower() -> None:
    model, optimizer = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    set_learning_rate(optimizer, 1e-2)
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 1e-3 if name.endswith("lambda_raw") else 1e-2
        decayed = before[name] * (1 - 1e-2 * 0.2 if p.dim() == 2 else 1)
        torch.testing.assert_close(p.detach(), decayed - rate, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_weights_begin_where_a_gpu_can_load_them_at_once(name: str) -> None:
    optimizer = build_optimizer(decoder(tiny(name)), OptimizerConfig(learning_rate=1e-3))
    for group in optimizer.param_groups:
        start = 0  # of a weight among those of its group, as ZeRO 1 and 2 lay them
        for weight in group["params"]:
            assert start % math.gcd(weight.numel(), 4) == 0
            start += weight.numel()
