"""What every form of a checkpoint is to a conversion: named fp32 tensors, read one at a time, and their origin."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import CheckpointError

# The `optimizer_states` of a form without any.
WEIGHTS_ALONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})
_LOSSLESS = (torch.float32, torch.bfloat16, torch.float16)
_REMEDY = "Convert it again from its origin, or use the model section it was trained with."


@dataclass(frozen=True)
class Description:
    """Where weights come from. config: the run's, as `to_plain` wrote it; origin: for error messages.

    skipped_steps: of the steps, those that changed no weight, which the optimizer does not count.
    """

    config: Mapping[str, Any]
    step: int
    tokens: int
    data_fingerprint: str
    origin: str
    skipped_steps: int = 0

    @cached_property
    def run(self) -> RunConfig:
        """The config of the run, checked."""
        return config_from_plain(dict(self.config), self.origin)

    def to_json(self) -> dict[str, Any]:
        """Return what other forms keep of it."""
        return {
            "config": dict(self.config),
            "step": self.step,
            "tokens": self.tokens,
            "data_fingerprint": self.data_fingerprint,
            "skipped_steps": self.skipped_steps,
        }

    @classmethod
    def from_json(cls, value: Any, origin: object) -> "Description":
        """Read what `to_json` wrote; raises CheckpointError for anything else."""
        kinds = {"config": dict, "step": int, "tokens": int, "data_fingerprint": str, "skipped_steps": int}
        if not isinstance(value, dict) or any(not isinstance(value.get(key), kind) for key, kind in kinds.items()):
            raise CheckpointError.at(
                origin,
                found="a description of the model that is incomplete",
                allowed=f"it has {', '.join(kinds)}",
                remedy=_REMEDY,
            )
        return cls(**{key: value[key] for key in kinds}, origin=str(origin))


class Weights(Protocol):
    """A checkpoint of any form."""

    @property
    def description(self) -> Description:
        """Where it comes from."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The parameters by name, in the model's order."""
        ...

    @property
    def optimizer_states(self) -> Mapping[str, tuple[str, ...]]:
        """The kinds that `read` knows besides the weight, by parameter; empty: weights alone."""
        ...

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor, fp32, on the CPU; raises CheckpointError when it cannot be trusted."""
        ...


def check_shapes(
    where: object, found: Mapping[str, Iterable[int]], wanted: Mapping[str, tuple[int, ...]], model: ModelConfig
) -> None:
    """Raise CheckpointError unless names and shapes are exactly the wanted ones."""
    shapes = {name: tuple(shape) for name, shape in found.items()}
    problems = [f"no {name}" for name in wanted.keys() - shapes.keys()]
    problems += [f"an extra {name}" for name in shapes.keys() - wanted.keys()]
    problems += [
        f"{name} of shape {list(shapes[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError.at(
            where,
            found=f"{', '.join(sorted(problems)[:4])}{more}",
            allowed=f"names and shapes are those of the {model.kind} model that the file describes",
            remedy=_REMEDY,
        )


def checked(where: object, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor widened to fp32; raises CheckpointError for another shape or dtype, and for NaN or infinity."""
    problem = None
    if tensor.dtype not in _LOSSLESS:
        problem = f"dtype {tensor.dtype}", "weights are float32, bfloat16 or float16, which fp32 holds exactly"
    elif tuple(tensor.shape) != shape:
        problem = f"shape {list(tensor.shape)}", f"the model has {list(shape)}"
    elif not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        problem = f"{count} of {math.prod(shape)} elements that are NaN or infinite", "weights are finite"
    if problem:
        raise CheckpointError.at(
            where, found=f"{name} with {problem[0]}", allowed=problem[1], remedy="Take an earlier checkpoint."
        )
    return tensor.to(torch.float32).contiguous()
