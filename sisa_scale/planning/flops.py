"""Floating-point operations of a model, by term.

Only matrix products are counted, a multiply-add as two operations. Attention is counted by its causal half, the part
that is needed. These are the model's own operations, which MFU is about; `planning.profiler_flops` adds what a profiler
finds beyond them. A chunked scan computes its chunks densely, and that is counted: it is how the model is defined here.
"""

from dataclasses import dataclass

from sisa_scale.config.mixers.mamba import Mamba3Config, SsmConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.sizing import ParameterCounts, count_parameters


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """Operations of one forward pass, per token of a sequence of a given length."""

    linear: float
    head: float
    attention_content: float
    attention_importance: float
    state_space: float

    @property
    def forward(self) -> float:
        """All terms of the forward pass."""
        return self.linear + self.head + self.attention_content + self.attention_importance + self.state_space

    @property
    def train(self) -> float:
        """Forward and backward pass, the backward counted as two forward passes; recomputation is not counted."""
        return 3 * self.forward


def flops_per_token(model: ModelConfig, sequence_tokens: int) -> FlopsPerToken:
    """Return the operations per token of a model on sequences of a length. Meta tokens count as cost of the others."""
    groups, mixers = count_parameters(model), model.mixers
    length = sequence_tokens + model.num_meta_tokens
    share = length / sequence_tokens
    content = importance = state_space = 0.0
    for layer, mixer in enumerate(mixers):
        keys = keys_needed(model, layer, length)
        if mixer in ("attention", "sisa"):
            content += 2 * model.num_heads * keys * 2 * model.head_width
        if mixer == "hymba" and model.hymba is not None:
            content += 2 * model.num_heads * keys * (1 + model.hymba.expand) * model.head_width
        if model.sisa is not None and model.has_importance(mixer):
            importance += 2 * model.num_heads * keys * model.sisa.extra_channels(layer)
        if mixer in ("mamba2", "mamba3", "hymba"):
            state_space += _scan(model, mixer, length)
    return FlopsPerToken(
        linear=2 * share * (groups.attention + groups.importance_matrices + groups.mlp + _projections(model, groups)),
        head=2 * model.vocab_size * model.d_model,
        attention_content=share * content,
        attention_importance=share * importance,
        state_space=share * state_space,
    )


def keys_needed(model: ModelConfig, layer: int, length: int) -> float:
    """Return how many keys a query of a layer needs, mean over the positions: its past, or a window and meta tokens."""
    hymba = model.hymba
    most = length
    if hymba is not None and model.mixers[layer] == "hymba" and not hymba.is_global(layer, model.num_layers):
        most = hymba.window_tokens + hymba.num_meta_tokens
    if most >= length:
        return (length + 1) / 2
    return (most * (most + 1) / 2 + (length - most) * most) / length


def chunk_of(section: SsmConfig, length: int) -> tuple[int, int]:
    """Return the tokens of a chunk of a scan and the number of chunks of a sequence."""
    rank = section.mimo_rank if isinstance(section, Mamba3Config) else 1
    chunk_tokens = min(max(1, section.chunk_tokens // rank), length)
    return chunk_tokens, -(-length // chunk_tokens)


def _projections(model: ModelConfig, groups: ParameterCounts) -> int:
    """Return the weights of the state-space mixers that stand in matrix products; the convolution is elementwise."""
    convolution = 0
    for name, section in (("mamba2", model.mamba2), ("hymba", model.hymba)):
        if section is not None:
            channels = section.inner_width(model.d_model) + 2 * section.state_width
            convolution += model.mixers.count(name) * section.conv_kernel * channels
    return groups.state_space_matrices + groups.hybrid_matrices - convolution


def _scan(model: ModelConfig, mixer: str, length: int) -> float:
    """Return the operations per token of one chunked scan: scores and values inside a chunk (dense), and the states.

    Between chunks the states are combined by one product over all pairs of chunks.
    """
    section: SsmConfig | None = {"mamba2": model.mamba2, "mamba3": model.mamba3, "hymba": model.hymba}[mixer]
    assert section is not None
    heads, state, width = section.num_heads(model.d_model), section.state_width, section.head_width
    rank = section.mimo_rank if isinstance(section, Mamba3Config) else 1
    groups = heads if isinstance(section, Mamba3Config) else 1
    chunk_tokens, chunks = chunk_of(section, length)
    inside = rank * 2 * chunk_tokens * rank * (groups * state + heads * width)
    states = rank * 4 * heads * state * width
    between = 2 * chunks * chunks * heads * state * width / length
    return chunks * chunk_tokens / length * (inside + states) + between
