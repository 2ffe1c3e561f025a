"""AdamW and its parameter groups."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW

from sisa_scale.config.optimizer import OptimizerConfig

_LOADED_ELEMENTS = 4  # 16 bytes of float32


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over three groups: matrices (decayed), vectors (not), and SISA's lambda (slower, and not).

    Each group carries `rate_scale`, its learning rate relative to the schedule's.
    """
    named = list(model.named_parameters())
    is_lambda = {name: name.endswith("lambda_raw") for name, _ in named}
    groups = [
        ("matrices", [p for _, p in named if p.dim() >= 2], config.weight_decay, 1.0),
        ("vectors", [p for n, p in named if p.dim() < 2 and not is_lambda[n]], 0.0, 1.0),
        ("lambda", [p for n, p in named if is_lambda[n]], 0.0, config.lambda_learning_rate_scale),
    ]
    return AdamW(
        [
            {"name": name, "params": _in_whole_loads(parameters), "weight_decay": decay, "rate_scale": scale}
            for name, parameters, decay, scale in groups
            if parameters
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=all(p.is_cuda for _, p in named),
    )


def _in_whole_loads(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return weights in an order by which each begins at a multiple of the elements that a GPU loads at once, up to 4.

    ZeRO 1 and 2 lay the weights of a group one behind the other. A compiled block loads by the addresses of the first
    block with its code; where those of another are not such multiples, too, the GPU stops at a misaligned address.
    """
    return sorted(parameters, key=lambda weight: -math.gcd(weight.numel(), _LOADED_ELEMENTS))


def set_learning_rate(optimizer: AdamW, learning_rate: float) -> None:
    """Give every group its share of the schedule's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_scale"]
