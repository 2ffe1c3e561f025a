"""How an optimizer is described. No torch here: planning and checkpoints ask, too."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sisa_scale.config.optimizer import OptimizerConfig

AVERAGE = "ema"  # name of the state that is the moving average of a weight
STATE_BYTES = 4  # an element of a state is fp32, as a weight is


@dataclass(frozen=True, slots=True)
class State:
    """What an optimizer keeps of a parameter, by its name in torch's `optimizer.state[parameter]`.

    shape: `weight`, fp32 and shaped like the parameter, zero before the first update (`AVERAGE`: the weight), stored in
    checkpoints; or
    `update_count`, one number, the updates taken so far, which is set from the steps of a checkpoint.
    """

    name: str
    shape: Literal["weight", "update_count"] = "weight"


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that are updated alike.

    takes: by name and shape, each parameter by one group; settings: what torch's group holds besides its parameters,
    with `rate_scale`, its learning rate relative to the schedule's; is_whole: an update needs whole matrices, see
    `OptimizerSpec`.
    """

    name: str
    states: tuple[State, ...]
    takes: Callable[[str, Sequence[int]], bool]
    settings: Callable[["OptimizerConfig"], dict[str, float]]
    is_whole: bool = False

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the states that checkpoints store."""
        return tuple(state.name for state in self.states if state.shape == "weight")

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of the states that count updates."""
        return tuple(state.name for state in self.states if state.shape == "update_count")


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer. kind: its name in recipes; groups: the parameter groups, in torch's order.

    torch_class: `module:Class` of a torch.optim.Optimizer that updates every element by itself, skips weights whose
    gradient is None, and keeps no states but the described ones; hyperparameters: arguments of the class, by name;
    is_fused: it takes `fused`, one kernel for many weights on a GPU.

    A class with groups that are `is_whole` has a method `place`, and is told there which elements of which matrices
    ZeRO gave each worker (`training.optimizers.matrix_exchange`); it updates those groups with all workers together.
    """

    kind: str
    torch_class: str
    hyperparameters: Callable[["OptimizerConfig"], dict[str, Any]]
    groups: tuple[ParameterGroup, ...]
    is_fused: bool = False

    def group(self, name: str, shape: Sequence[int]) -> ParameterGroup:
        """Return the group of a parameter."""
        return next(group for group in self.groups if group.takes(name, shape))

    def stored_states(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, ...]]:
        """Return the names of the states that a checkpoint stores of every parameter."""
        return {name: self.group(name, shape).stored for name, shape in shapes.items()}

    def whole(self, shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
        """Return the parameters that are updated as whole matrices."""
        return tuple(name for name, shape in shapes.items() if self.group(name, shape).is_whole)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all states that checkpoints store."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.stored))

    @property
    def count_names(self) -> tuple[str, ...]:
        """Names of all states that count updates."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.counts))

    def with_average(self) -> "OptimizerSpec":
        """Return the optimizer beside which a moving average of every weight is kept, as one more of its states."""
        groups = (replace(group, states=(*group.states, State(AVERAGE))) for group in self.groups)
        return replace(self, groups=tuple(groups))

    def state_elements(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return how many elements the states of parameters of these shapes have."""
        return sum(math.prod(shape) * len(self.group(name, shape).stored) for name, shape in shapes.items())

    def checkpoint_bytes(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return the bytes of a checkpoint of parameters of these shapes: weights and states."""
        return STATE_BYTES * (sum(map(math.prod, shapes.values())) + self.state_elements(shapes))


def standard_groups(*states: State) -> tuple[ParameterGroup, ...]:
    """Return groups with equal states: matrices (decayed), vectors (not), and SISA's lambda (slower, and not)."""
    return (
        ParameterGroup(
            "matrices",
            states,
            lambda name, shape: len(shape) >= 2,
            lambda config: {"weight_decay": config.weight_decay, "rate_scale": 1.0},
        ),
        ParameterGroup(
            "vectors",
            states,
            lambda name, shape: len(shape) < 2 and not _is_lambda(name),
            lambda config: {"weight_decay": 0.0, "rate_scale": 1.0},
        ),
        ParameterGroup(
            "lambda",
            states,
            lambda name, shape: len(shape) < 2 and _is_lambda(name),
            lambda config: {"weight_decay": 0.0, "rate_scale": config.lambda_learning_rate_scale},
        ),
    )


def _is_lambda(name: str) -> bool:
    return name.endswith("lambda_raw")
