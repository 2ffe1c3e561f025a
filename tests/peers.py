"""Models of ours and of `transformers` with the same weights."""

import pytest
import torch
from torch import Tensor, nn

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.attention import Attention

transformers = pytest.importorskip("transformers")

VOCAB, LENGTH, D_MODEL, HEADS, D_FF, LAYERS, STATE = 61, 37, 32, 4, 48, 4, 8
SHARED = {
    "vocab_size": VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": LAYERS, "tie_word_embeddings": True,
    "pad_token_id": None, "attn_implementation": "eager",
}  # fmt: skip
WITH_ATTENTION = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "intermediate_size": D_FF}


def ours(kind: str, **settings: object) -> Decoder:
    """Return a model in float64 whose every weight differs from its neighbours' and from 0 and 1."""
    config = ModelConfig(
        kind=kind,
        **{"num_layers": LAYERS, "d_model": D_MODEL, "num_heads": HEADS, "d_ff": D_FF, "vocab_multiple": 1, **settings},
        vocab_size=VOCAB,
        max_length_tokens=64,
        norm_epsilon=1e-5,
        init_std=0.2,
    )
    model = Decoder(config, ExecutionConfig(micro_batch_sequences=1, precision="fp32"), "math")
    model.initialise(0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(2))


def put(peer: nn.Module, **weights: Tensor) -> None:
    """Copy weights into a module's parameters by name, `a__b` for `a.b`: all it has, each of the right shape."""
    given = {name.replace("__", "."): weight for name, weight in weights.items()}
    found = dict(peer.named_parameters())
    assert given.keys() == found.keys()
    for name, weight in given.items():
        assert found[name].shape == weight.shape, name
        found[name].data.copy_(weight)


def put_attention(peer: nn.Module, mixer: Attention) -> None:
    q, k, v, _ = mixer.qkv.rows()
    put(peer, q_proj__weight=q, k_proj__weight=k, v_proj__weight=v, o_proj__weight=mixer.out.weight)


def put_mlp(peer: nn.Module, block: nn.Module) -> None:
    gate, up = block.mlp.gate_up.weight.chunk(2)
    put(peer, gate_proj__weight=gate, up_proj__weight=up, down_proj__weight=block.mlp.down.weight)


def put_block(peer: nn.Module, block: nn.Module, mlp: str, mlp_norm: str) -> None:
    put(peer.input_layernorm, weight=block.mixer_norm.weight)
    put(getattr(peer, mlp_norm), weight=block.mlp_norm.weight)
    put_mlp(getattr(peer, mlp), block)


def assert_same_logits(model: Decoder, peer: nn.Module, tolerance: float = 2e-5) -> None:
    """Peers compute norms, softmax and decays in float32 whatever the dtype: that is all the tolerance is for."""
    with torch.no_grad():
        expected = peer(tokens()).logits
        found = model.head.logits(model.hidden(tokens()))
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=tolerance)


def prepared(peer: nn.Module, model: Decoder, norm: str) -> nn.Module:
    """Return the peer in float64 with the embedding (and tied head) and final norm of the model."""
    peer = peer.double().eval()
    put(peer.get_input_embeddings(), weight=model.embedding.weight)
    put(peer.base_model.get_submodule(norm), weight=model.norm.weight)
    assert peer.get_output_embeddings().weight is peer.get_input_embeddings().weight
    return peer
