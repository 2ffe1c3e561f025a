"""Floating-point operations of a model, by term.

Only matrix products are counted, a multiply-add as two operations. Attention is counted by its causal half, the part
that is needed. These are the model's own operations, which MFU is about; `planning.profiler_flops` adds what a profiler
finds beyond them. A chunked scan computes its chunks densely, and that is counted: it is how the model is defined here.
"""

from dataclasses import dataclass

from sisa_scale.config.mixers.gated_deltanet import BASE_TOKENS
from sisa_scale.config.mixers.spec import AttentionWork, DeltaRuleWork, ScanWork
from sisa_scale.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """Operations of one forward pass, per token of a sequence of a given length.

    linear: projections and MLPs; state_space: scans, delta rules, and the products of a mixer that are its own.
    """

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
    length = sequence_tokens + model.num_meta_tokens
    share = length / sequence_tokens
    weights = content = importance = state_space = 0.0
    for layer in range(model.num_layers):
        spec = model.spec(layer)
        parameters, work = spec.parameters(model, layer), spec.work(model, layer)
        weights += parameters.projections + parameters.importance_matrices + 3 * model.d_model * model.d_ff
        if work.attention is not None:
            products = 2 * work.attention.heads * keys_needed(work.attention, length)
            content += products * (work.attention.key_width + work.attention.value_width)
            importance += products * work.attention.importance_width
        if work.scan is not None:
            state_space += scan_flops(work.scan, length)
        if work.delta_rule is not None:
            state_space += delta_rule_flops(work.delta_rule, length)
        state_space += work.flops
    return FlopsPerToken(
        linear=2 * share * weights,
        head=2 * model.vocab_size * model.d_model,
        attention_content=share * content,
        attention_importance=share * importance,
        state_space=share * state_space,
    )


def keys_needed(work: AttentionWork, length: int) -> float:
    """Return how many keys a query needs, mean over the positions: its past, or a window of it."""
    most = length if work.window_tokens is None else work.window_tokens
    if most >= length:
        return (length + 1) / 2
    return (most * (most + 1) / 2 + (length - most) * most) / length


def scan_flops(work: ScanWork, length: int) -> float:
    """Return the operations per token of one chunked scan: scores and values inside a chunk (dense), and the states.

    Between chunks the states are combined by one product over all pairs of chunks.
    """
    heads, state, width, rank = work.heads, work.state_width, work.head_width, work.rank
    chunk_tokens, chunks = work.chunks(length)
    inside = rank * 2 * chunk_tokens * rank * (work.groups * state + heads * width)
    states = rank * 4 * heads * state * width
    between = 2 * chunks * chunks * heads * state * width / length
    return chunks * chunk_tokens / length * (inside + states) + between


def delta_rule_flops(work: DeltaRuleWork, length: int) -> float:
    """Return the operations per token of a chunked delta rule, by the equations at the head of `kernels.delta_rule`."""
    tokens, keys, values = work.chunk_tokens, work.key_width, work.head_width
    square = tokens * tokens
    of_groups = 2 * square * keys  # products of keys with keys and with queries
    inside = square * (2 * values + keys)  # what tokens add, what they read, and their outputs
    of_states = tokens * keys * (keys + 3 * values) + keys * keys * values
    of_heads = inverse_products(tokens) + inside + of_states
    return 2 * work.chunks(length) / length * (work.groups * of_groups + work.heads * of_heads)


def inverse_products(tokens: int) -> int:
    """Return the multiply-adds of the inverse of a chunk: finite products of its base blocks, then joined pairs."""
    base = 2 * (BASE_TOKENS.bit_length() - 2) * BASE_TOKENS**3 * (tokens // BASE_TOKENS)
    joins = [size for size in (BASE_TOKENS << k for k in range(tokens.bit_length())) if size < tokens]
    return base + sum(tokens * size * size for size in joins)
