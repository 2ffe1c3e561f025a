"""What the package asks of a mixer, stated once, beside its settings and without torch.

A description says what the mixer is made of and which work it does; `models.sizing` and `planning` count it. Every
method takes the section `model` and the layer, counted from 0. L is the number of positions of a sequence.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sisa_scale.config.fields import Violation

if TYPE_CHECKING:
    from sisa_scale.config.model import ModelConfig

Family = Literal["attention", "state_space", "hybrid"]


@dataclass(frozen=True, slots=True)
class MixerParameters:
    """Weights of one mixer, without the norm before it, which is the block's.

    projections: in matrix products; taps: in matrices that act element by element, such as a convolution's;
    importance_*: what SISA's term adds, counted apart.
    """

    projections: int
    taps: int = 0
    vectors: int = 0
    importance_matrices: int = 0
    importance_vectors: int = 0


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Scores and sums over keys: every query with all keys up to its own, or with the last `window_tokens`.

    is_banded: a window is computed in blocks of queries with the keys of two blocks each (`kernels.window`), not by a
    mask on all keys; importance_width: channels that keys have beyond the content's; queries_per_call: queries that one
    kernel call reads, None for all; is_sigmoid: computed in chunks by `kernels.sigmoid_attention`;
    has_unbounded_decay: blocks of queries are computed in two parts (`mixers.unbounded_decay`).
    """

    heads: int
    key_width: int
    value_width: int
    importance_width: int = 0
    window_tokens: int | None = None
    is_banded: bool = False
    queries_per_call: int | None = None
    is_sigmoid: bool = False
    has_unbounded_decay: bool = False


@dataclass(frozen=True, slots=True)
class ScanWork:
    """A chunked scan (`kernels.ssd`): heads with states of state_width x head_width; groups share keys and queries.

    rank: rows of keys, queries and values of a token; chunk_tokens: tokens of a chunk, rank rows each.
    """

    heads: int
    groups: int
    state_width: int
    head_width: int
    chunk_tokens: int
    rank: int = 1

    def chunks(self, length: int) -> tuple[int, int]:
        """Return the tokens of a chunk and the number of chunks of a sequence."""
        chunk_tokens = min(self.chunk_tokens, length)
        return chunk_tokens, -(-length // chunk_tokens)


@dataclass(frozen=True, slots=True)
class DeltaRuleWork:
    """The gated delta rule (`kernels.delta_rule`): heads with states of key_width x head_width; groups of them share
    keys and queries.
    """

    heads: int
    groups: int
    key_width: int
    head_width: int
    chunk_tokens: int

    def chunks(self, length: int) -> int:
        """Return the number of chunks of a sequence, all of them whole."""
        return -(-length // self.chunk_tokens)


@dataclass(frozen=True, slots=True)
class MixerWork:
    """What a mixer computes between its projections, in matrix products.

    flops: of products of its own, per token; what a profiler counts beyond them: prefix_sum_channels, summed by
    `kernels.prefix_sum`; gradient_sum_flops, per token, of sums that only the backward pass has; padded_projection:
    the rows of its projection, where `FusedLinear` pads them to a fast width.
    """

    attention: AttentionWork | None = None
    scan: ScanWork | None = None
    delta_rule: DeltaRuleWork | None = None
    flops: float = 0.0
    prefix_sum_channels: int = 0
    gradient_sum_flops: float = 0.0
    padded_projection: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Speeds of a model of such mixers: docs/performance.md, "One GPU".

    mfu: compiled, bf16, 16 x 2048 tokens in a micro-batch; several_calls: factor on it when attention takes several
    calls; selective_share: what `selective` adds to the time of a step, as a share, None where it was not measured;
    normalized: factor where queries and keys are normalized ("Norms of queries and keys" there).
    """

    mfu: float
    several_calls: float = 1.0
    selective_share: float | None = None
    normalized: float = 1.0


class MixerSpec:
    """A mixer: its name, its settings, the place of its module, and what is asked of it.

    settings: dataclass of section `model.<name>`, None without settings; module: place of an nn.Module with
    `build(model, layer, attention_backend)` and the methods of `models.registry.MixerModule`; family: the group that
    its parameters belong to, and where `model.jamba` may have it.

    uses_heads: has `model.num_heads` heads; has_attention_block: those take `model.num_kv_heads`, `window_tokens` and
    `output_gate`; uses_positions: rotates them by `model.rope`; uses_sdpa: calls an
    attention kernel (`execution.attention_backend`); takes_mask: its module takes a document mask besides the numbers
    of the documents; state_space_kernels: values of `execution.state_space_kernel` that serve it, besides pytorch;
    unfit_backends: attention kernels that do not serve it, and why.

    measured: None is planned with the utilisation of the slowest mixer that was measured, and `plan` says so.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    settings: ClassVar[type | None] = None
    family: ClassVar[Family]
    uses_heads: ClassVar[bool] = False
    has_attention_block: ClassVar[bool] = False
    uses_positions: ClassVar[bool] = False
    uses_sdpa: ClassVar[bool] = False
    takes_mask: ClassVar[bool] = False
    state_space_kernels: ClassVar[tuple[str, ...]] = ()
    unfit_backends: ClassVar[dict[str, str]] = {}
    measured: ClassVar[Measured | None] = None

    @property
    def kind(self) -> str:
        """`model.kind` of a model that has this mixer in every block."""
        return self.name

    def parameters(self, model: "ModelConfig", layer: int) -> MixerParameters:
        """Return its weights."""
        raise NotImplementedError

    def work(self, model: "ModelConfig", layer: int) -> MixerWork:
        """Return what it computes."""
        raise NotImplementedError

    def has_importance(self, model: "ModelConfig") -> bool:
        """Whether its heads have SISA's term, with settings from section sisa."""
        return False

    def shared_heads(self, model: "ModelConfig") -> dict[str, int]:
        """Return the numbers of heads that workers of one sequence divide, by what errors call them.

        Empty for a module without `HeadExchange`: then workers cannot share sequences.
        """
        return {}

    def variant(self, model: "ModelConfig", layer: int) -> Hashable:
        """Return what tells layers with this mixer apart: equal values, equal blocks."""
        return None

    def violations(self, model: "ModelConfig") -> Iterator[Violation]:
        """Rules between its section, which is there, and the rest of `model`."""
        yield from ()

    def section(self, model: "ModelConfig") -> Any:
        """Return its settings as the model has them."""
        found = model.section(self.name)
        assert found is not None, self.name
        return found
