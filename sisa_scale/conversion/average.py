"""The mean of several checkpoints' weights, one tensor at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.config.run import to_plain
from sisa_scale.conversion.convert import SHARD_BYTES, Advance, staged
from sisa_scale.conversion.forms.native import NativeWeights, write_native
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.verify import check_equal_logits
from sisa_scale.conversion.weights import WEIGHTS_ALONE, Weights
from sisa_scale.errors import CheckpointError


class AveragedWeights:
    """Equal shares of several checkpoints of one model; summed in float64, so that their order does not matter much."""

    optimizer_states = WEIGHTS_ALONE

    def __init__(self, parts: Sequence[Weights]) -> None:
        """Take the description of the part with the most steps; raises CheckpointError for different models."""
        self.parts = parts
        newest = max(parts, key=lambda part: part.description.step)
        wanted = to_plain(newest.description.run.model)
        for part in parts:
            if to_plain(part.description.run.model) != wanted:
                raise CheckpointError.at(
                    part.description.origin,
                    found="another model section",
                    allowed=f"all are models like {newest.description.origin}",
                    remedy="Average checkpoints of one architecture.",
                )
        names = ", ".join(Path(part.description.origin).name for part in parts)
        text = f"{newest.description.config.get('description', '')} Mean of the weights of {names}.".strip()
        config = {**newest.description.config, "description": text}
        self.description = replace(newest.description, config=config, origin="the mean")
        self.shapes = newest.shapes

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return the mean of one tensor."""
        total = torch.zeros(self.shapes[name], dtype=torch.float64)
        for part in self.parts:
            total += part.read(name, kind)
        return (total / len(self.parts)).float()


def average(sources: Sequence[Path], destination: Path, advance: Advance = lambda num_bytes: None) -> None:
    """Write a checkpoint that holds the mean of the weights, and no states; `destination` must not exist."""
    mean = AveragedWeights([open_weights(source) for source in sources])
    with staged(destination) as staging:
        staging.mkdir()
        write_native(staging, mean, SHARD_BYTES, advance)
        check_equal_logits(mean, NativeWeights(staging))
