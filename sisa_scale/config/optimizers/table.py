"""The optimizers by kind: one line each."""

from sisa_scale.config.optimizers.adamw import ADAMW
from sisa_scale.config.optimizers.muon import MUON
from sisa_scale.config.optimizers.spec import OptimizerSpec

OPTIMIZERS: dict[str, OptimizerSpec] = {
    ADAMW.kind: ADAMW,
    MUON.kind: MUON,
}
