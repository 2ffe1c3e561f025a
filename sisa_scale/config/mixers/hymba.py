"""Section of the Hymba-style mixer (Dong et al. 2024, paper 2411.13676): attention and SSM heads side by side."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixers.mamba import Mamba2Config, SsmSpec, mamba2_scan
from sisa_scale.config.mixers.sisa import SisaConfig, augmented_work, summed_channels
from sisa_scale.config.mixers.spec import AttentionWork, Measured, MixerParameters, MixerWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HymbaConfig(Mamba2Config):
    """Both paths of the mixer; the SSM path has the settings of Mamba-2, at Hymba's state width."""

    attention: Literal["attention", "sisa"] = setting(
        "heads of the attention path; sisa: with the importance term of section model.sisa", default="attention"
    )
    state_width: int = setting(
        "channels N of a state of the SSM path, those of keys and queries", default=16, minimum=1
    )
    expand: int = setting("width of either path's result as a multiple of d_model", default=2, minimum=1)
    head_width: int = setting(
        "channels P of a head of the SSM path; attention heads have d_model / num_heads", default=64, minimum=1
    )
    num_kv_heads: int | None = setting(
        "heads of keys and values in the attention path; null is one for every head", default=None, minimum=1
    )
    window_tokens: int = setting(
        "tokens that attention in a local layer sees, the present one included; 0 without local layers",
        default=0,
        minimum=0,
    )
    global_layers: Literal["all", "first_middle_last"] = setting(
        "indices of layers whose attention sees every token; the others are local", default="all"
    )
    num_meta_tokens: int = setting(
        "learned vectors before the first token, visible to every window; the paper has 128", default=0, minimum=0
    )

    def kv_heads(self, num_heads: int) -> int:
        """Return the number of heads of keys and values."""
        return num_heads if self.num_kv_heads is None else self.num_kv_heads

    def is_global(self, layer: int, num_layers: int) -> bool:
        """Whether the attention of this layer, counted from 0, sees every token."""
        return self.global_layers == "all" or layer in {0, (num_layers - 1) // 2, num_layers - 1}

    def layer_parameters(self, d_model: int, num_heads: int) -> tuple[int, int]:
        """Return the weights of one mixer in matrices and in vectors, without the block's own norms and without SISA.

        Matrices: the fused projection d -> [q d | k d_kv | v e d_kv | z e d | x e d | B N | C N | dt H_s] with e the
        expansion, the taps of the convolution over (x, B, C), the output e d -> d. Vectors: the convolution's bias,
        one norm of e d for each path, and D, dt_bias, A_log of every SSM head.
        """
        inner, heads = self.inner_width(d_model), self.num_heads(d_model)
        kv_width = self.kv_heads(num_heads) * (d_model // num_heads)
        channels = inner + 2 * self.state_width
        attention = d_model + (1 + self.expand) * kv_width
        matrices = d_model * (attention + inner + channels + heads + inner) + self.conv_kernel * channels
        return matrices, channels + 2 * inner + 3 * heads

    def meta_parameters(self, d_model: int) -> int:
        """Return the weights of the meta tokens, once for the whole model."""
        return self.num_meta_tokens * d_model

    def head_violations(self, num_heads: int) -> Iterator[Violation]:
        """Rules between the section and the number of attention heads."""
        groups = self.kv_heads(num_heads)
        if num_heads % groups:
            divisors = [g for g in range(1, num_heads + 1) if num_heads % g == 0]
            nearest = min(divisors, key=lambda g: abs(g - groups))
            yield Violation(
                "num_kv_heads", str(groups), f"must divide num_heads {num_heads}", f"The nearest is {nearest}."
            )

    def sisa_violations(self, sisa: SisaConfig) -> Iterator[Violation]:
        """Rules between the section and `model.sisa`: which of its settings these heads have."""
        if self.attention != "sisa":
            return
        reason = "with hymba.attention sisa"
        wanted = {"form": ("auto", "single_call", "query_blocks"), "decay_kind": ("data", "none")}
        for key, allowed in {**wanted, "activation": ("softmax",)}.items():
            value = getattr(sisa, key)
            if value not in allowed:
                yield Violation(f"sisa.{key}", f"{value} {reason}", f"one of {', '.join(allowed)}", "Choose one.")
        if sisa.decay_range_nats > 80:
            yield Violation(
                "sisa.decay_range_nats",
                f"{sisa.decay_range_nats} {reason}",
                "at most 80: masked attention is not finite beyond that on every device",
                "Write 80.",
            )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        yield from Mamba2Config.violations(self)
        if (self.window_tokens == 0) != (self.global_layers == "all"):
            yield Violation(
                "window_tokens",
                f"{self.window_tokens} with global_layers {self.global_layers}",
                "a window needs local layers, and local layers need a window",
                "Write window_tokens 0 with all, or a window with first_middle_last.",
            )


class HymbaSpec(SsmSpec):
    """Both paths from one padded projection, and one output."""

    name, module, settings = "hymba", "sisa_scale.models.mixers.hymba:Hymba", HymbaConfig
    family = "hybrid"
    uses_heads = uses_positions = uses_sdpa = True
    state_space_kernels = ("mamba_ssm",)
    unfit_backends: ClassVar = {"flash_4": "flash_4 has no launch for as many short rows as Hymba's windows make"}
    measured = Measured(0.254, normalized=0.964)

    def has_importance(self, model: "ModelConfig") -> bool:
        """Return whether its attention path has SISA's heads."""
        return bool(self.section(model).attention == "sisa")

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        section: HymbaConfig = self.section(model)
        matrices, vectors = section.layer_parameters(model.d_model, model.num_heads)
        taps = section.conv_kernel * (section.inner_width(model.d_model) + 2 * section.state_width)
        importance = (0, 0)
        if model.sisa is not None and self.has_importance(model):
            groups = section.kv_heads(model.num_heads)
            importance = model.sisa.layer_parameters(model.d_model, model.num_heads, layer, groups)
        return MixerParameters(matrices - taps, taps, vectors, *importance)

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        section: HymbaConfig = self.section(model)
        is_global, sums = section.is_global(layer, model.num_layers), 0
        attention = AttentionWork(
            model.num_heads,
            model.head_width,
            section.expand * model.head_width,
            window_tokens=None if is_global else section.window_tokens + section.num_meta_tokens,
        )
        if model.sisa is not None and self.has_importance(model):
            attention = augmented_work(attention, model, layer)
            sums = summed_channels(model, section.kv_heads(model.num_heads), layer)
        parameters = self.parameters(model, layer)
        rows = (parameters.projections + parameters.importance_matrices) // model.d_model
        return MixerWork(
            attention=attention,
            scan=mamba2_scan(section, model),
            prefix_sum_channels=sums,
            padded_projection=rows - section.inner_width(model.d_model),
        )

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return the heads of either path."""
        heads = self.section(model).num_heads(model.d_model)
        return {"model.num_heads": model.num_heads, "heads of model.hymba's SSM path:": heads}

    def variant(self, model: "ModelConfig", layer: int) -> Hashable:
        """Layers differ in their window, and may in d_s."""
        d_s = model.sisa.d_s_of(layer) if model.sisa is not None and self.has_importance(model) else None
        return self.section(model).is_global(layer, model.num_layers), d_s

    def violations(self, model: "ModelConfig") -> Iterator[Violation]:
        """Rules between the section, the heads, the width and section sisa."""
        section: HymbaConfig = self.section(model)
        for violation in section.head_violations(model.num_heads) if model.num_heads else ():
            yield violation._replace(key=f"hymba.{violation.key}")
        if model.sisa is not None:
            yield from section.sisa_violations(model.sisa)
        yield from super().violations(model)
