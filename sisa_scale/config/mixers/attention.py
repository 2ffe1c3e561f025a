"""The Transformer's attention as the package asks for it. It has no settings beyond those of section `model`."""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from sisa_scale.config.mixers.spec import AttentionWork, Measured, MixerParameters, MixerSpec, MixerWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig


class AttentionSpec(MixerSpec):
    """Queries, keys, values and a gate from one padded projection, and the output."""

    name, module = "attention", "sisa_scale.models.mixers.attention:Attention"
    family = "attention"
    uses_heads = has_attention_block = uses_positions = uses_sdpa = takes_mask = True
    measured = Measured(0.400, selective_share=0.044, normalized=0.964)

    @property
    def kind(self) -> str:
        """A model of attention alone is a Transformer."""
        return "transformer"

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        return MixerParameters(projections=model.d_model * (block_rows(model) + model.d_model))

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        return MixerWork(attention=block_work(model, layer), padded_projection=block_rows(model))

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return its heads."""
        return {"model.num_heads": model.num_heads}

    def variant(self, model: "ModelConfig", layer: int) -> Hashable:
        """Layers may differ in their window."""
        return model.window_of(layer)


def block_rows(model: "ModelConfig") -> int:
    """Return the rows of the attention block's projection: content queries, keys, values, and the output gate."""
    return model.d_model + 2 * model.kv_width + model.gate_width


def block_work(model: "ModelConfig", layer: int) -> AttentionWork:
    """Return the work of the content heads of an attention block."""
    window = model.window_of(layer)
    return AttentionWork(
        model.num_heads, model.head_width, model.head_width, window_tokens=window, is_banded=window is not None
    )
