"""Logits of a checkpoint of any form, with the weights of one block in memory at a time.

Shapes: B batch, L length, V vocabulary.
"""

import torch
from torch import Tensor, nn

from sisa_scale.conversion.weights import Weights
from sisa_scale.errors import CheckpointError
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.meta import meta_decoder

_BATCH, _LENGTH = 2, 48


def fixed_batch(vocab_size: int, max_length_tokens: int) -> Tensor:
    """Return the tokens_BL that conversions are compared on."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (_BATCH, min(_LENGTH, max_length_tokens)), generator=generator)


@torch.no_grad()
def streamed_logits(weights: Weights, tokens_BL: Tensor) -> Tensor:
    """Return the logits (B, L, V) in fp32; each block's weights are read when it is reached and dropped after it."""
    model = meta_decoder(weights.description.run).eval()
    for name, parameter in list(model.named_parameters()):
        if not name.startswith("blocks."):
            _place(model, name, weights.read(name), parameter)
    model.head.weight = nn.Parameter(model.embedding.weight, requires_grad=False)
    for number, block in enumerate(model.blocks):
        _stream(model, block, f"blocks.{number}", weights)
    return model.head.logits(model.hidden(tokens_BL))


def check_equal_logits(source: Weights, converted: Weights) -> None:
    """Raise CheckpointError unless both give bitwise equal fp32 logits on a fixed batch."""
    model = source.description.run.model
    tokens_BL = fixed_batch(model.vocab_size, model.max_length_tokens)
    before, after = (streamed_logits(weights, tokens_BL) for weights in (source, converted))
    if not torch.equal(before, after):
        raise CheckpointError.at(
            converted.description.origin,
            found=f"logits that differ from the source's by up to {(before - after).abs().max().item():.3g}",
            allowed="a conversion gives bitwise the same fp32 logits",
            remedy="Nothing was written. Check the disk and convert again.",
        )


def _stream(model: Decoder, block: nn.Module, prefix: str, weights: Weights) -> None:
    names = [(f"{prefix}.{name}", parameter) for name, parameter in block.named_parameters()]

    def load(*_: object) -> None:
        for name, parameter in names:
            _place(model, name, weights.read(name), parameter)

    def drop(*_: object) -> None:
        for name, parameter in names:
            owner, _dot, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, parameter)

    block.register_forward_pre_hook(load)
    block.register_forward_hook(drop)


def _place(model: Decoder, name: str, tensor: Tensor, like: nn.Parameter) -> None:
    owner, _dot, leaf = name.rpartition(".")
    assert tensor.shape == like.shape
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
