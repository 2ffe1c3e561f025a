"""Section `model`: the function that is trained. Fixed for the life of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.heads import head_violations
from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.mixers.mamba import Mamba2Config, Mamba3Config
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.mixers.spec import MixerSpec
from sisa_scale.config.mixers.table import mixer_names, mixer_spec, mixer_specs
from sisa_scale.config.rope import RopeConfig, RopeScaling

Position = Literal["rope", "none"]

# Sections that are fields of `ModelConfig`, so that Python code which names them is typed; others are in `sections`.
_FIELDS = ("sisa", "mamba2", "mamba3", "gated_deltanet", "jamba", "hymba")


def _kinds() -> tuple[str, ...]:
    return (*(spec.kind for spec in mixer_specs()), "jamba", "pattern")


def _sections() -> Mapping[str, type]:
    """Return the settings of the mixers that have no field of their own, by name."""
    return {spec.name: spec.settings for spec in mixer_specs() if spec.settings and spec.name not in _FIELDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder: embedding, pre-norm blocks of mixer and SwiGLU, final norm, tied head."""

    kind: str = setting(
        "the architecture: one mixer in every block, 'jamba', or 'pattern' for your own sequence of mixers",
        choices=_kinds,
    )
    num_layers: int = setting("number of blocks", minimum=1)
    d_model: int = setting("width of the residual stream", minimum=1)
    num_heads: int = setting("number of attention heads; unused without attention", default=0, minimum=0)
    num_kv_heads: int | None = setting(
        "heads of keys and values of attention and SISA, shared by groups of query heads (2305.13245); SISA's B, decay "
        "and phase are a group's. null is one for every query head",
        default=None,
        minimum=1,
    )
    window_tokens: int | tuple[int | None, ...] | None = setting(
        "tokens that attention and SISA see, the present one included; null sees all. A list is a pattern, repeated "
        "over the layers that have heads: [1024, null] is every other layer local",
        default=None,
        minimum=1,
    )
    output_gate: Literal["none", "per_head", "per_channel"] = setting(
        "sigmoid of a projection of the input on the result of attention and SISA (2505.06708): a factor for every "
        "head, or for every channel as in Qwen3-Next",
        default="none",
    )
    d_ff: int = setting("hidden width of the SwiGLU; 0 leaves it out (pure stacks of state-space mixers)", minimum=0)
    vocab_size: int = setting("number of token ids the tokenizer can produce", minimum=2)
    vocab_multiple: int = setting("the embedding is padded to a multiple of this many rows", default=128, minimum=1)
    max_length_tokens: int = setting("longest sequence the model accepts", minimum=2)
    trained_length_tokens: int | None = setting(
        "max_length_tokens of the first training, for a model trained further at a greater length; null "
        "is max_length_tokens. The bound of SISA's decay depends on this length",
        default=None,
        minimum=2,
    )
    position: Position | tuple[Position, ...] = setting(
        "position encoding of attention; Jamba has none. A list is a pattern, repeated over the layers that have "
        "heads: [rope, rope, rope, none] leaves it out of every fourth",
        default="rope",
    )
    rope_fraction: float = setting(
        "share of a head's channels, from the first on, that is rotated by position",
        default=1.0,
        above=0.0,
        maximum=1.0,
    )
    rope_base: float = setting("base of the rotary position frequencies", default=10000.0, above=1.0)
    rope: RopeConfig | None = setting("scaling of rotary positions beyond the trained length", default=None)
    norm_epsilon: float = setting(
        "epsilon of the RMSNorms of the residual stream and of heads", default=1e-6, above=0.0
    )
    qk_norm: bool = setting(
        "RMS norm of each head's content queries and keys, before their rotation: keeps logits from growing",
        default=False,
    )
    qk_norm_gain: bool = setting(
        "learned factors after qk_norm, one per channel of a head for queries and one for keys", default=False
    )
    z_loss_weight: float = setting(
        "factor on the mean squared log of the softmax's denominator (2204.02311: 1e-4), which keeps output logits "
        "from drifting. It acts on gradients; losses are reported without it",
        default=0.0,
        minimum=0.0,
    )
    init_std: float = setting(
        "standard deviation of embeddings and projections at initialisation", default=0.02, above=0.0
    )
    pattern: tuple[str, ...] | None = setting(
        "mixers of successive blocks, repeated until num_layers (kind: pattern)", default=None, choices=mixer_names
    )
    sisa: SisaConfig | None = setting("the importance term of SISA blocks", default=None)
    mamba2: Mamba2Config | None = setting("Mamba-2 blocks", default=None)
    mamba3: Mamba3Config | None = setting("Mamba-3 blocks", default=None)
    gated_deltanet: GatedDeltaNetConfig | None = setting("Gated DeltaNet blocks", default=None)
    jamba: JambaConfig | None = setting("where a Jamba-style hybrid has attention", default=None)
    hymba: HymbaConfig | None = setting("Hymba-style blocks: both kinds of heads side by side", default=None)
    sections: tuple[Any, ...] = setting("settings of the mixers without a field here", default=(), sections=_sections)

    @property
    def head_width(self) -> int:
        """Content channels per head (d_h)."""
        return self.d_model // max(1, self.num_heads)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values of the attention block."""
        return self.num_kv_heads or self.num_heads

    @property
    def kv_width(self) -> int:
        """Content channels of all keys, and of all values, of the attention block."""
        return self.kv_heads * self.head_width

    @property
    def gate_width(self) -> int:
        """Channels of the attention block's output gate."""
        return {"none": 0, "per_head": self.num_heads, "per_channel": self.d_model}[self.output_gate]

    @property
    def rotary_width(self) -> int:
        """Content channels of a head that are rotated by position."""
        return round(self.rope_fraction * self.head_width)

    @property
    def trained_length(self) -> int:
        """The longest sequence of the first training, in tokens."""
        return self.trained_length_tokens or self.max_length_tokens

    @property
    def num_positions(self) -> int:
        """Positions of the longest sequence, meta tokens included."""
        return self.max_length_tokens + self.num_meta_tokens

    @property
    def trained_positions(self) -> int:
        """Positions of the longest sequence of the first training, meta tokens included."""
        return self.trained_length + self.num_meta_tokens

    @property
    def rope_scaling(self) -> RopeScaling | None:
        """The scaling of rotary positions, None without one."""
        return self.rope.resolve(self.max_length_tokens, self.trained_length) if self.rope is not None else None

    @property
    def attention_factor(self) -> float:
        """Factor on rotated queries and keys, both, in content channels."""
        return self.rope_scaling.attention_factor if self.rope_scaling is not None else 1.0

    @property
    def num_meta_tokens(self) -> int:
        """Learned vectors before the first token."""
        return self.hymba.num_meta_tokens if self.hymba is not None else 0

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: the vocabulary padded for tensor cores."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def mixers(self) -> tuple[str, ...]:
        """The mixer of every block."""
        if self.kind == "jamba" and self.jamba is not None:
            return tuple(self.jamba.mixer(layer) for layer in range(self.num_layers))
        pattern = self.pattern if self.kind == "pattern" and self.pattern else (self._own_mixer,)
        return tuple(pattern[layer % len(pattern)] for layer in range(self.num_layers))

    @property
    def specs(self) -> tuple[MixerSpec, ...]:
        """What the mixers of the model say of themselves, each once, in the order of the table."""
        return tuple(spec for spec in mixer_specs() if spec.name in self.mixers)

    @property
    def num_head_layers(self) -> int:
        """Blocks whose mixer has attention heads."""
        return sum(self.spec(layer).uses_heads for layer in range(self.num_layers))

    @property
    def is_rotated(self) -> tuple[bool, ...]:
        """Whether each layer rotates its heads by position, if it has any."""
        return tuple(
            self.spec(layer).uses_positions and self._of_pattern(self.position, layer) == "rope"
            for layer in range(self.num_layers)
        )

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens the attention block of a layer sees, None for all."""
        window: int | None = self._of_pattern(self.window_tokens, layer)
        return window

    def _of_pattern(self, pattern: Any, layer: int) -> Any:
        """Return a layer's value of a setting that may be a list, repeated over the layers that have heads."""
        if not isinstance(pattern, tuple):
            return pattern
        return pattern[sum(self.spec(before).uses_heads for before in range(layer)) % len(pattern)]

    def spec(self, layer: int) -> MixerSpec:
        """Return what the mixer of a layer says of itself."""
        return mixer_spec(self.mixers[layer])

    def section(self, name: str) -> Any:
        """Return the section of this name, None if there is none."""
        if name in _FIELDS:
            return getattr(self, name)
        kind = _sections().get(name)
        return next((section for section in self.sections if type(section) is kind), None)

    @property
    def has_importance(self) -> bool:
        """Whether the heads of any mixer have SISA's term."""
        return any(spec.has_importance(self) for spec in self.specs)

    @property
    def is_normalized(self) -> bool:
        """Whether queries and keys are normalized, in content or importance; those of published SISA are not."""
        return self.qk_norm or (self.sisa is not None and self.sisa.normalize_importance)

    @property
    def _own_mixer(self) -> str:
        return next((spec.name for spec in mixer_specs() if spec.kind == self.kind), self.kind)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        yield from self._section_violations()
        if self.kind == "pattern" and not self.pattern:
            return  # there is no mixer to ask
        yield from head_violations(self)
        yield from self._length_violations()
        for spec in mixer_specs():
            if spec.settings is None or self.section(spec.name) is not None:
                yield from spec.violations(self)

    def _section_violations(self) -> Iterator[Violation]:
        """Every mixer that is used has its section, and no section is there for nothing."""
        if (self.kind == "pattern") != bool(self.pattern):
            wanted = "a list model.pattern" if self.kind == "pattern" else "model.pattern: null"
            yield Violation("kind", f"{self.kind}", f"needs {wanted}", f"Mixers are {', '.join(mixer_names())}.")
            return
        if self.pattern and self.num_layers % len(self.pattern):
            yield Violation(
                "pattern",
                f"{len(self.pattern)} mixers",
                f"must divide num_layers {self.num_layers}",
                f"The nearest num_layers is {-(-self.num_layers // len(self.pattern)) * len(self.pattern)}.",
            )
        needed = {"jamba"} if self.kind == "jamba" else set()
        needed |= {spec.name for spec in self.specs if spec.settings is not None}
        has_sections = all(self.section(name) is not None for name in needed)
        needed |= {"sisa"} if has_sections and self.has_importance else set()
        for name in (*_FIELDS, *_sections()):
            has_section = self.section(name) is not None
            if name in needed and not has_section:
                needs = f"kind {self.kind} needs a section model.{name}"
                yield Violation(name, "nothing", needs, f"Write model.{name}, if only as {{}}.")
            elif has_section and name not in needed:
                yield Violation(name, "a section", f"kind {self.kind} has no such blocks", f"Write model.{name}: null.")

    def _length_violations(self) -> Iterator[Violation]:
        """A length beyond the trained one is an explicit choice of what becomes of the positions."""
        trained, longest = self.trained_length, self.max_length_tokens
        if trained > longest:
            yield Violation(
                "max_length_tokens",
                str(longest),
                f"must be at least trained_length_tokens {trained}, which the model's function depends on",
                f"Write {trained} or more; shorter sequences need no setting.",
            )
        has_positions = self.position != () and any(self.is_rotated)
        if self.rope is None:
            if has_positions and longest > trained:
                yield Violation(
                    "rope.scaling",
                    f"nothing, with max_length_tokens {longest} beyond the trained {trained}",
                    "rotary positions beyond the trained length need a choice: none (as they are), linear, ntk or yarn",
                    "Write model.rope.scaling, for instance yarn.",
                )
        elif has_positions:
            yield from self.rope.length_violations(longest)
        else:
            yield Violation(
                "rope", "a section", "the model has no rotary positions to scale", "Write model.rope: null."
            )
