"""Section `model.gated_deltanet`: Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, 2412.06464)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixers.spec import DeltaRuleWork, MixerParameters, MixerSpec, MixerWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig

BASE_TOKENS = 8  # of the blocks that a chunk is inverted by (`kernels.delta_rule`): the shortest chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedDeltaNetConfig:
    """A Gated DeltaNet mixer. The defaults give keys of 0.75 and values of 1.5 times d_model, as published."""

    expand: float = setting("width of the values as a multiple of d_model", default=1.5, above=0.0)
    head_width: int = setting("channels P of a head's values", default=128, minimum=1)
    key_width: int = setting("channels N of a head's keys and queries", default=64, minimum=1)
    heads_per_key: int = setting(
        "heads of values that share a head of keys and queries; 1 as published, 2 in Qwen3-Next", default=1, minimum=1
    )
    conv_kernel: int = setting(
        "taps of the causal convolution of queries, keys and values, the present token included", default=4, minimum=1
    )
    chunk_tokens: int = setting(
        "chunk length, a power of two: products are dense inside a chunk and recurrent between chunks; changes speed, "
        "not results",
        default=64,
        minimum=BASE_TOKENS,
    )
    dt_min: float = setting("smallest step size Delta of a head at initialisation", default=1e-3, above=0.0)
    dt_max: float = setting("largest step size Delta of a head at initialisation", default=1e-1, above=0.0)
    a_init: tuple[float, ...] = setting(
        "range [low, high] of the decay rate of a head at initialisation", default=(0.01, 16.0), above=0.0
    )

    def inner_width(self, d_model: int) -> int:
        """Return the width of all values."""
        return round(self.expand * d_model)

    def num_heads(self, d_model: int) -> int:
        """Return the number of heads H of values; whole if `width_violations` has nothing to say."""
        return self.inner_width(d_model) // self.head_width

    def num_key_heads(self, d_model: int) -> int:
        """Return the number of heads G of keys and queries."""
        return self.num_heads(d_model) // self.heads_per_key

    def conv_widths(self, d_model: int) -> tuple[int, int, int]:
        """Return the channels of queries, keys and values, which the convolution reads in this order."""
        keys = self.num_key_heads(d_model) * self.key_width
        return keys, keys, self.inner_width(d_model)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.chunk_tokens & (self.chunk_tokens - 1):
            nearest = 1 << self.chunk_tokens.bit_length() - 1
            yield Violation("chunk_tokens", str(self.chunk_tokens), "must be a power of two", f"Write {nearest}.")
        if self.dt_min > self.dt_max:
            yield Violation("dt_min", str(self.dt_min), f"must not exceed dt_max {self.dt_max}", "Swap the two.")
        if len(self.a_init) != 2 or self.a_init[0] > self.a_init[-1]:
            yield Violation("a_init", str(list(self.a_init)), "must be two numbers, low then high", "Write [0.01, 16].")

    def width_violations(self, d_model: int) -> Iterator[Violation]:
        """Rules between the section and the width of the residual stream."""
        inner = self.inner_width(d_model)
        if inner != self.expand * d_model or inner % self.head_width:
            divisors = [p for p in range(1, inner + 1) if inner % p == 0]
            nearest = min(divisors, key=lambda p: abs(p - self.head_width))
            yield Violation(
                "head_width",
                str(self.head_width),
                f"must divide expand x d_model = {self.expand * d_model:g}",
                f"The nearest is {nearest}."
                if inner == self.expand * d_model
                else "Choose an expand that makes it a whole number.",
            )
        elif self.num_heads(d_model) % self.heads_per_key:
            heads = self.num_heads(d_model)
            divisors = [n for n in range(1, heads + 1) if heads % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.heads_per_key))
            yield Violation(
                "heads_per_key",
                str(self.heads_per_key),
                f"must divide the {heads} heads of values (expand x d_model / head_width)",
                f"The nearest is {nearest}.",
            )


class GatedDeltaNetSpec(MixerSpec):
    """In- and out-projection, a convolution over (q, k, v), and the gated delta rule."""

    name, module = "gated_deltanet", "sisa_scale.models.mixers.gated_deltanet:GatedDeltaNet"
    settings = GatedDeltaNetConfig
    family = "state_space"
    state_space_kernels = ("flash_linear_attention",)

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights: decay rate and bias of every head, and one norm for all heads."""
        section: GatedDeltaNetConfig = self.section(model)
        inner, heads = section.inner_width(model.d_model), section.num_heads(model.d_model)
        return MixerParameters(
            projections=model.d_model * (self._rows(model) + inner),
            taps=section.conv_kernel * sum(section.conv_widths(model.d_model)),
            vectors=2 * heads + section.head_width,
        )

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        section: GatedDeltaNetConfig = self.section(model)
        heads, groups = section.num_heads(model.d_model), section.num_key_heads(model.d_model)
        return MixerWork(
            delta_rule=DeltaRuleWork(heads, groups, section.key_width, section.head_width, section.chunk_tokens),
            padded_projection=self._rows(model),
        )

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return its heads of keys, which those of values are a multiple of."""
        section: GatedDeltaNetConfig = self.section(model)
        return {"heads of keys of model.gated_deltanet:": section.num_key_heads(model.d_model)}

    def violations(self, model: "ModelConfig") -> Iterator[Violation]:
        """Rules between the section and the width of the model."""
        for violation in self.section(model).width_violations(model.d_model):
            yield violation._replace(key=f"gated_deltanet.{violation.key}")

    def _rows(self, model: "ModelConfig") -> int:
        section: GatedDeltaNetConfig = self.section(model)
        inner, heads = section.inner_width(model.d_model), section.num_heads(model.d_model)
        return sum(section.conv_widths(model.d_model)) + inner + 2 * heads
