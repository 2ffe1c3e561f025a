"""The moving average of a run's weights in the place of its weights."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.config.optimizers.spec import AVERAGE
from sisa_scale.conversion.weights import WEIGHTS_ALONE, Description, Weights
from sisa_scale.errors import CheckpointError

Which = Literal["raw", "ema"]


class MovingAverage:
    """Weights alone: the average that a checkpoint keeps beside its weights."""

    optimizer_states = WEIGHTS_ALONE

    def __init__(self, source: Weights) -> None:
        """Raise CheckpointError where the checkpoint has no average."""
        self.source = source
        if not all(AVERAGE in source.optimizer_states.get(name, ()) for name in source.shapes):
            raise CheckpointError.at(
                source.description.origin,
                found="weights without a moving average",
                allowed="ema weights are those of a run with optimizer.ema_half_life_tokens",
                remedy="Take the weights as they are: --weights raw.",
            )

    @property
    def description(self) -> Description:
        """Where the weights come from."""
        return self.source.description

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The parameters by name."""
        return self.source.shapes

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return the average of one weight."""
        assert kind == WEIGHT
        return self.source.read(name, AVERAGE)


def chosen_weights(source: Weights, which: Which) -> Weights:
    """Return the weights of a checkpoint as they are, or their moving average."""
    return source if which == "raw" else MovingAverage(source)
