"""What a profiler counts: the model's own operations (`planning.flops`) and the products beyond them.

`torch.utils.flop_counter` counts matrix products alone, as we do, so elementwise work (norms, rotations, the causal
convolution, exponentials of decays) stands in neither figure. It sees more products than the model needs:

    masked attention   kernels that compute every score, the later keys' as well; flash kernels skip most of this; and
                       what merges the two parts of SISA's blocks without a bound
    prefix sums        sums over the length as triangular products, where a scan would only add
    gradient sums      the gradients of Mamba-3's keys and queries, summed over heads and tokens as products with ones;
                       and that of the delta rule's inverse, two products of whole chunks
    padding            logits of the embedding's rows beyond the vocabulary, and rows that make a mixer's projection
                       a fast width

MFU counts the model's own operations, so that a wasteful kernel earns nothing.
"""

from dataclasses import dataclass

from sisa_scale.config.mixers.spec import AttentionWork, MixerWork
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.fused_linear import padding_rows
from sisa_scale.models.kernels.prefix_sum import BLOCK_TOKENS
from sisa_scale.models.kernels.sigmoid_attention import CHUNK_TOKENS
from sisa_scale.models.kernels.window import window_block_tokens
from sisa_scale.models.mixers.unbounded_decay import MERGING_CHANNELS
from sisa_scale.planning.flops import FlopsPerToken, flops_per_token, inverse_products, keys_needed


@dataclass(frozen=True, slots=True)
class CountedFlops:
    """Operations per token of the matrix products that are carried out, with attention by its math kernel."""

    model: FlopsPerToken
    masked_attention: float
    prefix_sums: float
    gradient_sums: float
    padding: float

    @property
    def forward(self) -> float:
        """All products of the forward pass."""
        return self.model.forward + self.masked_attention + self.prefix_sums + self.padding

    @property
    def train(self) -> float:
        """All products of both passes: a product of two tensors has two in the backward pass, a sum has one."""
        return 3 * self.forward - self.prefix_sums + self.gradient_sums


def counted_flops_per_token(model: ModelConfig, sequence_tokens: int) -> CountedFlops:
    """Return the operations per token that `FlopCounterMode` finds, recomputation aside."""
    length = sequence_tokens + model.num_meta_tokens
    share = length / sequence_tokens
    masked = sums = gradient_sums = 0.0
    rows = 0
    for layer in range(model.num_layers):
        work = model.spec(layer).work(model, layer)
        masked += _masked(work.attention, length) if work.attention is not None else 0.0
        sums += _sums(work, length)
        gradient_sums += work.gradient_sum_flops + _inverse_gradient(work, length)
        rows += padding_rows(work.padded_projection)
    return CountedFlops(
        model=flops_per_token(model, sequence_tokens),
        masked_attention=masked / sequence_tokens,
        prefix_sums=sums / sequence_tokens,
        gradient_sums=share * gradient_sums,
        padding=2.0 * (model.padded_vocab_size - model.vocab_size + share * rows) * model.d_model,
    )


def _masked(work: AttentionWork, length: int) -> float:
    """Return the operations of a layer on scores that the mask drops, for a whole sequence."""
    block = work.queries_per_call or (CHUNK_TOKENS if work.is_sigmoid else length)
    computed = _banded(work.window_tokens or 0, length) if work.is_banded else None
    if computed is None:
        computed = sum((end - start) * end for start, end in _blocks(length, block))
    width, beyond = work.key_width + work.importance_width + work.value_width, 0
    if work.has_unbounded_decay:
        beyond = _beyond_blocks(length, block, width, None if work.is_sigmoid else MERGING_CHANNELS)
    return 2.0 * work.heads * (width * (computed - length * keys_needed(work, length)) + beyond)


def _banded(window_tokens: int, length: int) -> int | None:
    """Return the scores of `kernels.window`, of whole blocks with two blocks of keys; None where no window cuts."""
    if window_tokens >= length:
        return None
    block = min(window_block_tokens(window_tokens), length)
    return block * block * (2 * -(-length // block) - 1)


def _beyond_blocks(length: int, block: int, width: int, merging_channels: int | None) -> int:
    """Return the multiply-adds of a head that blocks of an unbounded decay need beyond those of one call a block.

    Products inside blocks are of whole ones. To merge them, calls have channels more and a key for every query.
    """
    inside = sum((end - start) ** 2 for start, end in _blocks(length, block))
    padding = width * (-(-length // block) * block * block - inside)
    if merging_channels is None:
        return padding
    calls = [(end - start, end) for start, end in _blocks(length, block) if start]
    return padding + sum(queries * (width * queries + merging_channels * keys) for queries, keys in calls)


def _blocks(length: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, length)) for start in range(0, length, block)]


def _sums(work: MixerWork, length: int) -> float:
    """Return the operations of a layer on prefix sums, for a whole sequence."""
    chunked = 0.0
    if work.scan is not None:
        chunk, chunks = work.scan.chunks(length)
        chunked = 2.0 * work.scan.heads * chunks * (chunk * chunk + chunks)
    if work.delta_rule is not None:
        chunked = 2.0 * work.delta_rule.heads * work.delta_rule.chunks(length) * work.delta_rule.chunk_tokens**2
    blocks = -(-length // BLOCK_TOKENS)
    return chunked + 2.0 * work.prefix_sum_channels * blocks * (BLOCK_TOKENS * BLOCK_TOKENS + blocks)


def _inverse_gradient(work: MixerWork, length: int) -> float:
    """Return the operations per token by which the written gradient of an inverse exceeds those of its products."""
    if work.delta_rule is None:
        return 0.0
    tokens = work.delta_rule.chunk_tokens
    beyond = 2 * tokens**3 - 2 * inverse_products(tokens)
    return 2.0 * work.delta_rule.heads * work.delta_rule.chunks(length) / length * beyond
