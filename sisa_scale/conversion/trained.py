"""A trained model in use: weights of a checkpoint of any form, on one device, without DeepSpeed."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sisa_scale.checkpoint.store import Location
from sisa_scale.config.loading.extension import trained_config
from sisa_scale.config.run import RunConfig
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.moving_average import Which, chosen_weights
from sisa_scale.conversion.weights import Weights
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend


@dataclass(frozen=True)
class TrainedWeights:
    """A checkpoint that is opened, not yet read. config: of its run, with what is to differ; step, tokens: where it is.

    origin: where it lies.
    """

    weights: Weights
    config: RunConfig
    step: int
    tokens: int
    origin: str

    def model(self, device: torch.device) -> Decoder:
        """Return the model in evaluation mode, weights in fp32; raises CheckpointError when they are damaged."""
        config = self.config
        is_augmented = config.model.sisa is not None
        backend = portable_backend(device.type, config.execution.precision, is_augmented=is_augmented)
        model = Decoder(config.model, config.execution, backend)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights.read(name))
        return model.to(device).eval()


def open_trained(where: Location, overrides: Iterable[str] = (), which: Which = "raw") -> TrainedWeights:
    """Open a run directory's newest checkpoint, one checkpoint, a converted directory, or a published `.pt` file.

    overrides: `key=value` for what may change after training; which: the weights, or their moving average. Raises
    CheckpointError or ConfigError.
    """
    weights = chosen_weights(open_weights(where), which)
    found = weights.description
    config = trained_config(dict(found.config), found.origin, overrides)
    return TrainedWeights(weights, config, found.step, found.tokens, found.origin)
