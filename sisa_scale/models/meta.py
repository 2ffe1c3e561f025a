"""A model without memory for its weights: what shapes it has."""

import warnings

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend


def meta_decoder(run: RunConfig) -> Decoder:
    """Return the model in fp32 arithmetic for the CPU, without memory for its weights."""
    backend = portable_backend("cpu", "fp32", is_augmented=run.model.sisa is not None)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", SisaScaleWarning)  # of the published form: said by who uses the model
        return Decoder(run.model, run.execution, backend)


def parameter_shapes(run: RunConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a run's model, in the model's order."""
    return {name: tuple(parameter.shape) for name, parameter in meta_decoder(run).named_parameters()}
