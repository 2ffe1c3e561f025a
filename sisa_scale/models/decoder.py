"""The language model: embedding, blocks, norm, tied head, loss.

Shapes: B batch, L length, D width.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import Block, RMSNorm
from sisa_scale.models.head import Head, TokenScores
from sisa_scale.models.mixers.importance import LogitParts, document_mask
from sisa_scale.models.mixers.rotary import position_cos_sin
from sisa_scale.models.monitors import LayerMonitor, read_layer
from sisa_scale.models.registry import HasStateSpaceKernel, MixerModule, build_mixer
from sisa_scale.models.sequence_parallel import HeadExchange, SequenceGroup


@runtime_checkable
class HasImportance(Protocol):
    """Heads with SISA's term, in any mixer."""

    config: SisaConfig
    lambda_raw: Tensor

    def logit_parts(self, *inputs: Tensor) -> LogitParts:
        """Return what the logits of a forward pass on these inputs are made of."""
        ...


@dataclass(slots=True)
class DecoderCache:
    """What decoding keeps: the cache of every mixer, and the number of tokens of every row."""

    mixers: list[Any]
    length_B: Tensor


class Decoder(nn.Module):
    """A decoder-only language model. Weights are undefined until `initialise` or a checkpoint fills them."""

    def __init__(self, config: ModelConfig, execution: ExecutionConfig, attention_backend: str) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.bfloat16 if execution.precision == "bf16" else None
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        num_meta = config.num_meta_tokens
        self.meta = nn.Parameter(torch.empty(num_meta, config.d_model)) if num_meta else None
        self.blocks = nn.ModuleList(
            Block(config, build_mixer(config, layer, attention_backend), recomputation=execution.recomputation(layer))
            for layer in range(config.num_layers)
        )
        self.is_rotated = config.is_rotated
        self.takes_mask = [config.spec(layer).takes_mask for layer in range(config.num_layers)]
        for module in self.modules():
            if isinstance(module, HasStateSpaceKernel):
                module.use_kernel(execution.state_space_kernel)
        self.norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.head = Head(self.embedding.weight, config.vocab_size, execution.loss_chunk_tokens, config.z_loss_weight)
        self.exchange = HeadExchange()

    def forward(
        self,
        tokens_BL: Tensor,
        targets_BL: Tensor,
        per_token: bool = False,
        document_BL: Tensor | None = None,
    ) -> Tensor | TokenScores:
        """Return the mean next-token loss in nats, or with `per_token` the scores of every target.

        Targets of -100 are left out. document_BL: see `hidden`. A worker that shares sequences returns the loss of its
        own tokens.
        """
        return self.head(self.hidden(tokens_BL, document_BL), targets_BL, per_token)

    def hidden(self, tokens_BL: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Return the final hidden states x_BLD; position t depends on tokens <= t alone.

        document_BL numbers the document of every token of a packed sequence: each is read as if it stood alone. Workers
        that share sequences give their own tokens and the documents of all. Raises ValueError beyond max_length_tokens,
        and for documents where meta tokens would have to come before each.
        """
        length = tokens_BL.shape[1] * self.exchange.size
        if length > self.config.max_length_tokens:
            raise ValueError(f"length {length} exceeds max_length_tokens {self.config.max_length_tokens}")
        if self.meta is not None and document_BL is not None:
            raise ValueError("a model with meta tokens cannot read packed documents apart")
        x_BLD = self._with_meta(self._embed(tokens_BL))
        positions = torch.arange(length + self.config.num_meta_tokens, device=x_BLD.device)
        if document_BL is not None:
            # Only differences of positions act, but large ones have larger rounding errors: count anew, too.
            positions = positions - torch.searchsorted(document_BL, document_BL)
        cos_sin = self._cos_sin(positions)
        documents: tuple[Tensor, ...] = ()
        masked: tuple[Tensor, ...] = ()
        if document_BL is not None:
            documents = (document_BL,)
            if any(self.takes_mask):
                masked = (document_BL, document_mask(document_BL, x_BLD.dtype))
        for block, cos_sin_2LK, takes_mask in zip(self._layers(), cos_sin, self.takes_mask, strict=True):
            x_BLD = block(x_BLD, cos_sin_2LK, *(masked if takes_mask else documents))
        return self.norm(x_BLD[:, self.config.num_meta_tokens :])

    def share_sequences(self, group: SequenceGroup | None) -> None:
        """Let a group of workers share sequences in training mode, see `models.sequence_parallel`; None for none."""
        for exchange in (module for module in self.modules() if isinstance(module, HeadExchange)):
            exchange.group = group

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        x_BLD: Tensor = self.embedding(tokens_BL)
        if torch.is_autocast_enabled(x_BLD.device.type) and self.compute_dtype is not None:
            x_BLD = x_BLD.to(self.compute_dtype)  # the residual stream, too, is in the compute dtype
        return x_BLD

    def _with_meta(self, x_BLD: Tensor) -> Tensor:
        if self.meta is None:
            return x_BLD
        return torch.cat((self.meta.to(x_BLD.dtype).expand(x_BLD.shape[0], -1, -1), x_BLD), dim=1)

    def _meta_first(self, x_BLD: Tensor, is_token_BL: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Put the meta tokens before the first token of every row, after its padding."""
        whole_BLD = self._with_meta(x_BLD)
        if is_token_BL is None:
            return whole_BLD, None
        batch, length = is_token_BL.shape
        num_meta, num_padding_B1 = self.config.num_meta_tokens, (~is_token_BL).sum(1, keepdim=True)
        place_1L = torch.arange(length + num_meta, device=x_BLD.device)[None]
        is_padding = place_1L < num_padding_B1
        is_meta = ~is_padding & (place_1L < num_padding_B1 + num_meta)
        source = torch.where(is_padding, num_meta + place_1L, torch.where(is_meta, place_1L - num_padding_B1, place_1L))
        return whole_BLD[torch.arange(batch, device=x_BLD.device)[:, None], source], ~is_padding

    def _cos_sin(self, positions: Tensor) -> list[Tensor]:
        """Return what every layer rotates its heads by; layers without positions share angles of 0."""
        width, base = self.config.rotary_width, self.config.rope_base
        still_2LK = position_cos_sin(torch.zeros_like(positions), width, base)
        if not any(self.is_rotated):
            return [still_2LK] * len(self.is_rotated)
        rotating_2LK = position_cos_sin(positions, width, base, self.config.rope_scaling)
        return [rotating_2LK if is_rotated else still_2LK for is_rotated in self.is_rotated]

    def new_cache(self, batch: int, device: torch.device | None = None) -> "DecoderCache":
        """Return the cache of `batch` rows that hold no token yet; every mixer's lies where its layer does.

        device: of the tokens, and of layers whose weights are on none until they are called.
        """
        device = device or self.embedding.weight.device
        is_half = torch.is_autocast_enabled(device.type)
        dtype = (self.compute_dtype if is_half else None) or self.embedding.weight.dtype
        mixers = []
        for block in self._layers():
            place = block.mixer_norm.weight.device
            mixers.append(block.mixer.new_cache(batch, device if place.type == "meta" else place, dtype))
        return DecoderCache(mixers, torch.zeros(batch, dtype=torch.int64, device=device))

    @torch.no_grad()
    def extend(self, tokens_BL: Tensor, cache: "DecoderCache", is_token_BL: Tensor | None = None) -> Tensor:
        """Return the logits (B, V) after these tokens, which follow those in the cache; see `extend_hidden`."""
        return self.head.logits(self.extend_hidden(tokens_BL, cache, is_token_BL)[:, -1:])[:, 0]

    @torch.no_grad()
    def extend_hidden(self, tokens_BL: Tensor, cache: "DecoderCache", is_token_BL: Tensor | None = None) -> Tensor:
        """Return what `hidden` would for these tokens after those in the cache; the cache then holds them, too.

        False in is_token_BL marks padding before the first token of a row: it has no influence and no position, and
        what is returned for it means nothing. Raises ValueError beyond max_length_tokens.
        """
        x_BLD = self._embed(tokens_BL)
        if self.meta is not None and not cache.length_B.any():
            x_BLD, is_token_BL = self._meta_first(x_BLD, is_token_BL)
        counts_BL = x_BLD.new_ones(x_BLD.shape[:2], dtype=torch.int64) if is_token_BL is None else is_token_BL.long()
        positions_BL = cache.length_B[:, None] + counts_BL.cumsum(1) - 1
        cache.length_B = cache.length_B + counts_BL.sum(1)
        if int(cache.length_B.max()) > self.config.max_length_tokens + self.config.num_meta_tokens:
            raise ValueError(f"beyond max_length_tokens {self.config.max_length_tokens}")
        cos_sin = self._cos_sin(positions_BL.clamp(min=0))
        for block, cos_sin_2BLK, mixer_cache in zip(self._layers(), cos_sin, cache.mixers, strict=True):
            x_BLD = block.extend(x_BLD, mixer_cache, cos_sin_2BLK, is_token_BL)
        return self.norm(x_BLD[:, -tokens_BL.shape[1] :])  # meta tokens stand before a row's first token

    def initialise(self, seed: int) -> None:
        """Fill all weights, each module from its own stream: equal seeds give equal weights on any world size."""
        std = self.config.init_std
        for name, module in self.named_modules():
            generator = torch.Generator().manual_seed(_stream_seed(seed, name))
            if module is self and self.meta is not None:
                nn.init.normal_(self.meta, std=std, generator=generator)
            elif name.endswith(".mixer") and isinstance(module, MixerModule):
                module.initialise(std, generator)
            elif ".mixer." in name:
                continue  # the mixer has seen to it
            elif isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=std, generator=generator)

    @torch.no_grad()
    def monitor(self, tokens_BL: Tensor, document_BL: Tensor | None = None) -> list[LayerMonitor]:
        """Return what every layer with SISA's importance term does on these tokens; empty when there is none."""
        readings: list[LayerMonitor] = []

        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, HasImportance)
            readings.append(read_layer(module.logit_parts(*inputs), softplus(module.lambda_raw), document_BL))

        read_ones = [m for m in self.modules() if isinstance(m, HasImportance) and m.config.has_importance]
        with _pre_hooks(read_ones, read):
            self.hidden(tokens_BL, document_BL)
        return readings


@contextmanager
def _pre_hooks(modules: Sequence[nn.Module], hook: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stream_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
