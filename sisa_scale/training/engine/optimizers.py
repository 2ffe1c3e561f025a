"""Optimizers over their parameter groups, built from their descriptions (`config/optimizers`)."""

import math
import pkgutil
from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from sisa_scale.config.optimizer import OptimizerConfig

_LOADED_ELEMENTS = 4  # 16 bytes of float32


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Return the optimizer of a model over the groups of its description, those without parameters left out.

    Each group carries `rate_scale`, its learning rate relative to the schedule's.
    """
    spec = config.spec
    parameters: dict[str, list[nn.Parameter]] = {group.name: [] for group in spec.groups}
    for name, parameter in model.named_parameters():
        parameters[spec.group(name, parameter.shape).name].append(parameter)
    groups = [
        {"name": group.name, "params": _in_whole_loads(parameters[group.name]), **group.settings(config)}
        for group in spec.groups
        if parameters[group.name]
    ]
    fused = {"fused": all(parameter.is_cuda for parameter in model.parameters())} if spec.is_fused else {}
    build = pkgutil.resolve_name(spec.torch_class)
    optimizer: Optimizer = build(groups, lr=config.learning_rate, **spec.hyperparameters(config), **fused)
    return optimizer


def _in_whole_loads(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return weights in an order by which each begins at a multiple of the elements that a GPU loads at once, up to 4.

    ZeRO 1 and 2 lay the weights of a group one behind the other. A compiled block loads by the addresses of the first
    block with its code; where those of another are not such multiples, too, the GPU stops at a misaligned address.
    """
    return sorted(parameters, key=lambda weight: -math.gcd(weight.numel(), _LOADED_ELEMENTS))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every group its share of the schedule's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_scale"]
