"""Muon (Jordan et al. 2024) on the matrices of hidden layers, AdamW on all other weights.

The momentum of a matrix is orthogonalised (`training.optimizers.newton_schulz`), and its step is scaled by its shape so
that learning rate and weight decay of AdamW carry over (Liu et al. 2025, 2502.16982, equation 4).
"""

from collections.abc import Sequence
from dataclasses import replace

from sisa_scale.config.optimizers.adamw import ADAMW
from sisa_scale.config.optimizers.spec import OptimizerSpec, ParameterGroup, State


def is_hidden(name: str, shape: Sequence[int]) -> bool:
    """Return whether a weight is a matrix that a block multiplies by; the taps of a convolution act element by element.

    Embedding, which is the head, too, and meta tokens lie outside the blocks.
    """
    return len(shape) == 2 and name.startswith("blocks.") and ".conv." not in name


_MATRICES, *_VECTORS = ADAMW.groups

MUON = OptimizerSpec(
    kind="muon",
    torch_class="sisa_scale.training.optimizers.muon:Muon",
    hyperparameters=ADAMW.hyperparameters,
    groups=(
        ParameterGroup(
            "hidden",
            (State("momentum"),),
            is_hidden,
            lambda config: {
                "weight_decay": config.weight_decay,
                "rate_scale": 1.0,
                "momentum": config.momentum,
                "nesterov": config.nesterov,
                "newton_schulz_steps": config.newton_schulz_steps,
            },
            is_whole=True,
        ),
        replace(_MATRICES, takes=lambda name, shape: _MATRICES.takes(name, shape) and not is_hidden(name, shape)),
        *_VECTORS,
    ),
    is_fused=True,
)
