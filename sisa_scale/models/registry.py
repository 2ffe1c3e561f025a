"""The mixers by name."""

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.mixers.attention import Attention
from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.mamba2 import Mamba2
from sisa_scale.models.mixers.mamba3 import Mamba3
from sisa_scale.models.mixers.sisa import Sisa

MixerModule = Attention | Sisa | Mamba2 | Mamba3 | Hymba


def build_mixer(config: ModelConfig, layer: int, attention_backend: str) -> MixerModule:
    """Return the mixer of a layer, with weights undefined."""
    name = config.mixers[layer]
    if name == "mamba2":
        assert config.mamba2 is not None
        return Mamba2(config.d_model, config.mamba2)
    if name == "mamba3":
        assert config.mamba3 is not None
        return Mamba3(config.d_model, config.mamba3)
    if name == "hymba":
        return Hymba(config, attention_backend, layer)
    return Sisa(config, attention_backend, layer) if name == "sisa" else Attention(config, attention_backend)
