"""The Transformer's attention as the package asks for it. It has no settings beyond those of section `model`."""

from typing import TYPE_CHECKING

from sisa_scale.config.mixers.spec import AttentionWork, Measured, MixerParameters, MixerSpec, MixerWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig


class AttentionSpec(MixerSpec):
    """Queries, keys, values and the output, d x d each."""

    name, module = "attention", "sisa_scale.models.mixers.attention:Attention"
    family = "attention"
    uses_heads = uses_positions = uses_sdpa = takes_mask = True
    measured = Measured(0.400, selective_share=0.044, normalized=0.964)

    @property
    def kind(self) -> str:
        """A model of attention alone is a Transformer."""
        return "transformer"

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        return MixerParameters(projections=4 * model.d_model * model.d_model)

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        return MixerWork(attention=AttentionWork(model.num_heads, model.head_width, model.head_width))

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return its heads."""
        return {"model.num_heads": model.num_heads}
