"""Sections of the state-space mixers: Mamba-2 (paper 2405.21060) and Mamba-3 (ICLR 2026), symbols as there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixers.spec import Family, Measured, MixerParameters, MixerSpec, MixerWork, ScanWork

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SsmConfig:
    """What both mixers have in common."""

    state_width: int = setting("channels N of a head's state, those of keys and queries", default=64, minimum=1)
    expand: int = setting("width inside the mixer as a multiple of d_model", default=2, minimum=1)
    head_width: int = setting("channels P of a head's values", default=64, minimum=1)
    chunk_tokens: int = setting(
        "chunk length Q: products are dense inside a chunk and recurrent between chunks; changes speed, not results",
        default=64,
        minimum=1,
    )
    dt_min: float = setting("smallest step size Delta of a head at initialisation", default=1e-3, above=0.0)
    dt_max: float = setting("largest step size Delta of a head at initialisation", default=1e-1, above=0.0)

    def inner_width(self, d_model: int) -> int:
        """Return the width d_i inside the mixer."""
        return self.expand * d_model

    def num_heads(self, d_model: int) -> int:
        """Return the number of heads H; whole if `width_violations` has nothing to say."""
        return self.inner_width(d_model) // self.head_width

    def width_violations(self, d_model: int) -> Iterator[Violation]:
        """Rules between the section and the width of the residual stream."""
        inner = self.inner_width(d_model)
        if inner % self.head_width:
            divisors = [p for p in range(1, inner + 1) if inner % p == 0]
            nearest = min(divisors, key=lambda p: abs(p - self.head_width))
            yield Violation(
                "head_width",
                str(self.head_width),
                f"must divide expand x d_model = {inner}",
                f"The nearest is {nearest}.",
            )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if self.dt_min > self.dt_max:
            yield Violation("dt_min", str(self.dt_min), f"must not exceed dt_max {self.dt_max}", "Swap the two.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba2Config(SsmConfig):
    """A Mamba-2 mixer with one group of keys and queries."""

    conv_kernel: int = setting("taps of the causal convolution, the present token included", default=4, minimum=1)
    a_init: tuple[float, ...] = setting(
        "range [low, high] of the decay rate of a head at initialisation", default=(1.0, 16.0), above=0.0
    )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        yield from SsmConfig.violations(self)
        if len(self.a_init) != 2 or self.a_init[0] > self.a_init[-1]:
            yield Violation("a_init", str(list(self.a_init)), "must be two numbers, low then high", "Write [1, 16].")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba3Config(SsmConfig):
    """A Mamba-3 mixer: single input and output (rank 1), or multiple (MIMO) with the rank given."""

    rotary_fraction: float = setting(
        "share of the state's channels that are rotated", default=0.5, above=0.0, maximum=1.0
    )
    mimo_rank: int = setting(
        "rows of keys, queries and values a token has; 1 is Mamba-3 SISO, and chunks hold 1 / rank as many tokens",
        default=1,
        minimum=1,
    )

    @property
    def num_angles(self) -> int:
        """Rotated channel pairs n_a of the state."""
        return round(self.state_width * self.rotary_fraction) // 2

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        yield from SsmConfig.violations(self)
        rotated = self.state_width * self.rotary_fraction
        if rotated != 2 * self.num_angles:
            yield Violation(
                "rotary_fraction",
                f"{self.rotary_fraction} of {self.state_width} channels, that is {rotated:g}",
                "channels are rotated in pairs, so their number is even",
                "Write 0.5 or 1.0 with a state_width that is a multiple of 4.",
            )


class SsmSpec(MixerSpec):
    """What both mixers answer alike."""

    family: ClassVar[Family] = "state_space"

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return the heads of the scan."""
        return {f"heads of model.{self.name}:": self.section(model).num_heads(model.d_model)}

    def violations(self, model: "ModelConfig") -> Iterator[Violation]:
        """Rules between the section and the width of the model."""
        for violation in self.section(model).width_violations(model.d_model):
            yield violation._replace(key=f"{self.name}.{violation.key}")


class Mamba2Spec(SsmSpec):
    """In- and out-projection, a convolution over (x, B, C), and a scan with one group."""

    name, module, settings = "mamba2", "sisa_scale.models.mixers.mamba2:Mamba2", Mamba2Config
    state_space_kernels = ("mamba_ssm",)
    measured = Measured(0.253)

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        section: Mamba2Config = self.section(model)
        inner, heads = section.inner_width(model.d_model), section.num_heads(model.d_model)
        channels = inner + 2 * section.state_width
        return MixerParameters(
            projections=model.d_model * (self._rows(model) + inner),
            taps=section.conv_kernel * channels,
            vectors=channels + 3 * heads + inner,
        )

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        return MixerWork(scan=mamba2_scan(self.section(model), model), padded_projection=self._rows(model))

    def _rows(self, model: "ModelConfig") -> int:
        section: Mamba2Config = self.section(model)
        return 2 * section.inner_width(model.d_model) + 2 * section.state_width + section.num_heads(model.d_model)


def mamba2_scan(section: Mamba2Config, model: "ModelConfig") -> ScanWork:
    """Return the scan of Mamba-2's path, here or in Hymba."""
    heads = section.num_heads(model.d_model)
    return ScanWork(heads, 1, section.state_width, section.head_width, section.chunk_tokens)


class Mamba3Spec(SsmSpec):
    """In- and out-projection, and a scan whose keys and queries are each head's own, of any rank."""

    name, module, settings = "mamba3", "sisa_scale.models.mixers.mamba3:Mamba3", Mamba3Config
    measured = Measured(0.269)

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        section: Mamba3Config = self.section(model)
        inner, heads, rank = section.inner_width(model.d_model), section.num_heads(model.d_model), section.mimo_rank
        vectors = 2 * heads + 2 * heads * rank * section.state_width + 2 * section.state_width
        vectors += 3 * rank * inner if rank > 1 else 0
        return MixerParameters(projections=model.d_model * (self._rows(model) + inner), vectors=vectors)

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes. The gradients of keys and queries are summed over heads, and over tokens."""
        section: Mamba3Config = self.section(model)
        heads, state, rank = section.num_heads(model.d_model), section.state_width, section.mimo_rank
        chunk_tokens = max(1, section.chunk_tokens // rank)
        return MixerWork(
            scan=ScanWork(heads, heads, state, section.head_width, chunk_tokens, rank),
            prefix_sum_channels=heads * section.num_angles,
            gradient_sum_flops=8.0 * rank * heads * state,
            padded_projection=self._rows(model),
        )

    def _rows(self, model: "ModelConfig") -> int:
        section: Mamba3Config = self.section(model)
        inner, state = section.inner_width(model.d_model), section.mimo_rank * section.state_width
        return 2 * inner + 2 * state + 3 * section.num_heads(model.d_model) + section.num_angles
