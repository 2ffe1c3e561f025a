"""The settings of the attention block against the models of `transformers` that have them, with the same weights.

grouped queries                              Llama, whole
grouped queries, normalized, with gains      Qwen3, whole
windows, every other layer global            Gemma-2, whole but for what is not built here: softcaps and norms after
                                             a sublayer are left out, its MLP gets SiLU, its embedding no factor
gate, partial rotation, all of Qwen3's       Qwen3-Next of attention layers and dense MLPs, whole
every fourth layer without positions         SmolLM3, whole
"""

import torch
from peers import (
    D_MODEL,
    HEADS,
    LAYERS,
    SHARED,
    WITH_ATTENTION,
    assert_same_logits,
    ours,
    prepared,
    put,
    put_attention,
    put_block,
    put_mlp,
    transformers,
)
from torch import nn

GROUPED = {**SHARED, **WITH_ATTENTION, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
HEAD_WIDTH = D_MODEL // HEADS


def test_grouped_queries_are_llamas() -> None:
    model = ours("transformer", num_kv_heads=2)
    peer = prepared(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)), model, "norm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "mlp", "post_attention_layernorm")
        put_attention(layer.self_attn, block.mixer)
    assert_same_logits(model, peer)


def test_grouped_queries_with_norms_are_qwen3s() -> None:
    model = ours("transformer", num_kv_heads=2, qk_norm=True, qk_norm_gain=True)
    config = transformers.Qwen3Config(**GROUPED, head_dim=HEAD_WIDTH)
    peer = prepared(transformers.Qwen3ForCausalLM(config), model, "norm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        mixer = block.mixer
        put_block(layer, block, "mlp", "post_attention_layernorm")
        q, k, v, _ = mixer.qkv.rows()
        put(
            layer.self_attn, q_proj__weight=q, k_proj__weight=k, v_proj__weight=v, o_proj__weight=mixer.out.weight,
            q_norm__weight=mixer.query_norm.gain, k_norm__weight=mixer.key_norm.gain,
        )  # fmt: skip
    assert_same_logits(model, peer)


def test_windows_between_global_layers_are_gemma2s() -> None:
    window = 9
    model = ours("transformer", num_kv_heads=2, window_tokens=(window, None))
    config = transformers.Gemma2Config(
        **GROUPED, head_dim=HEAD_WIDTH, query_pre_attn_scalar=HEAD_WIDTH, sliding_window=window,
        layer_types=["sliding_attention", "full_attention"] * 2, attn_logit_softcapping=None,
        final_logit_softcapping=None, hidden_activation="silu",
    )  # fmt: skip
    peer = transformers.Gemma2ForCausalLM(config).double().eval()
    # It multiplies embeddings by sqrt(d), and norms by 1 + weight.
    peer.lm_head.weight = nn.Parameter(model.embedding.weight.detach().clone())
    embedding = model.embedding.weight / torch.tensor(D_MODEL**0.5)
    peer.model.embed_tokens.weight = nn.Parameter(embedding.detach())
    put(peer.model.norm, weight=model.norm.weight - 1)
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put(layer.input_layernorm, weight=block.mixer_norm.weight - 1)
        put(layer.pre_feedforward_layernorm, weight=block.mlp_norm.weight - 1)
        layer.post_attention_layernorm = layer.post_feedforward_layernorm = nn.Identity()
        put_mlp(layer.mlp, block)
        put_attention(layer.self_attn, block.mixer)
    assert_same_logits(model, peer)


def test_the_gate_and_partial_rotation_are_qwen3_nexts() -> None:
    model = ours(
        "transformer", num_kv_heads=2, qk_norm=True, qk_norm_gain=True, output_gate="per_channel", rope_fraction=0.5
    )
    config = transformers.Qwen3NextConfig(
        **GROUPED, head_dim=HEAD_WIDTH, layer_types=["full_attention"] * LAYERS, mlp_only_layers=list(range(LAYERS)),
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    peer = transformers.Qwen3NextForCausalLM(config).double().eval()
    put(peer.model.embed_tokens, weight=model.embedding.weight)
    put(peer.model.norm, weight=model.norm.weight - 1)
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        mixer = block.mixer
        put(layer.input_layernorm, weight=block.mixer_norm.weight - 1)
        put(layer.post_attention_layernorm, weight=block.mlp_norm.weight - 1)
        put_mlp(layer.mlp, block)
        q, k, v, gate = mixer.qkv.rows()
        heads = [rows.view(HEADS, HEAD_WIDTH, D_MODEL) for rows in (q, gate)]
        put(
            layer.self_attn, q_proj__weight=torch.cat(heads, 1).flatten(0, 1), k_proj__weight=k, v_proj__weight=v,
            o_proj__weight=mixer.out.weight, q_norm__weight=mixer.query_norm.gain - 1,
            k_norm__weight=mixer.key_norm.gain - 1,
        )  # fmt: skip
    assert_same_logits(model, peer)


def test_layers_without_positions_are_smollm3s() -> None:
    model = ours("transformer", num_kv_heads=2, position=("rope", "rope", "rope", "none"))
    config = transformers.SmolLM3Config(**GROUPED, no_rope_layers=[1, 1, 1, 0], rope_theta=10000.0)
    peer = prepared(transformers.SmolLM3ForCausalLM(config), model, "norm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "mlp", "post_attention_layernorm")
        put_attention(layer.self_attn, block.mixer)
    assert_same_logits(model, peer)
