"""What a profiler counts: the model's own operations (`planning.flops`) and the products beyond them.

`torch.utils.flop_counter` counts matrix products alone, as we do, so elementwise work (norms, rotations, the causal
convolution, exponentials of decays) stands in neither figure. It sees more products than the model needs:

    masked attention   kernels that compute every score, the later keys' as well; flash kernels skip most of this; and
                       what merges the two parts of SISA's blocks without a bound
    prefix sums        sums over the length as triangular products, where a scan would only add
    gradient sums      the gradients of Mamba-3's keys and queries, summed over heads and tokens as products with ones
    padding            logits of the embedding's rows beyond the vocabulary, and rows that make a mixer's projection
                       a fast width (attention's is one)

MFU counts the model's own operations, so that a wasteful kernel earns nothing.
"""

from dataclasses import dataclass

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.fused_linear import padding_rows
from sisa_scale.models.kernels.prefix_sum import BLOCK_TOKENS
from sisa_scale.models.kernels.sigmoid_attention import CHUNK_TOKENS
from sisa_scale.models.mixers.unbounded_decay import MERGING_CHANNELS
from sisa_scale.models.sizing import projection_rows
from sisa_scale.planning.flops import FlopsPerToken, chunk_of, flops_per_token, keys_needed


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
    masked = sums = 0.0
    rows = 0
    for layer, mixer in enumerate(model.mixers):
        masked += _masked(model, layer, mixer, length)
        sums += _sums(model, layer, mixer, length)
        rows += padding_rows(projection_rows(model, layer)) if mixer != "attention" else 0
    return CountedFlops(
        model=flops_per_token(model, sequence_tokens),
        masked_attention=masked / sequence_tokens,
        prefix_sums=sums / sequence_tokens,
        gradient_sums=share * model.mixers.count("mamba3") * _gradient_sums(model),
        padding=2.0 * (model.padded_vocab_size - model.vocab_size + share * rows) * model.d_model,
    )


def _masked(model: ModelConfig, layer: int, mixer: str, length: int) -> float:
    """Return the operations of a layer on scores that the mask drops, for a whole sequence."""
    if mixer not in ("attention", "sisa", "hymba"):
        return 0.0
    value_width = model.head_width * (model.hymba.expand if mixer == "hymba" and model.hymba is not None else 1)
    width, block, beyond = model.head_width + value_width, length, 0
    if model.sisa is not None and model.has_importance(mixer):
        width += model.sisa.extra_channels(layer)
        if model.sisa.form_at(model.num_positions, model.trained_positions) == "query_blocks":
            block = min(model.sisa.queries_per_call(model.trained_positions), length)
            if model.sisa.is_unbounded(model.trained_positions):
                is_merged = model.sisa.activation == "softmax"
                beyond = _beyond_blocks(length, block, width, MERGING_CHANNELS if is_merged else None)
        elif model.sisa.activation == "sigmoid":
            block = CHUNK_TOKENS
    computed = sum((end - start) * end for start, end in _blocks(length, block))
    unneeded = computed - length * keys_needed(model, layer, length)
    return 2.0 * model.num_heads * (width * unneeded + beyond)


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


def _sums(model: ModelConfig, layer: int, mixer: str, length: int) -> float:
    """Return the operations of a layer on prefix sums, for a whole sequence."""
    channels, chunked = 0, 0.0
    if model.sisa is not None and model.has_importance(mixer):
        heads = model.kv_heads(mixer)
        is_rotated = model.sisa.has_importance and model.sisa.has_rotation
        channels = heads * (1 + (model.sisa.d_s_of(layer) // 2 if is_rotated else 0))
    section = {"mamba2": model.mamba2, "mamba3": model.mamba3, "hymba": model.hymba}.get(mixer)
    if section is not None:
        heads = section.num_heads(model.d_model)
        if mixer == "mamba3" and model.mamba3 is not None:
            channels = heads * model.mamba3.num_angles
        chunk, chunks = chunk_of(section, length)
        chunked = 2.0 * heads * chunks * (chunk * chunk + chunks)
    blocks = -(-length // BLOCK_TOKENS)
    return chunked + 2.0 * channels * blocks * (BLOCK_TOKENS * BLOCK_TOKENS + blocks)


def _gradient_sums(model: ModelConfig) -> float:
    """Return the operations per token of a Mamba-3 layer: keys and queries are summed over heads, and over tokens."""
    section = model.mamba3
    if section is None:
        return 0.0
    return 8.0 * section.mimo_rank * section.num_heads(model.d_model) * section.state_width
