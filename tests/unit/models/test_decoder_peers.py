"""Our models against independent implementations with the same weights: transformers' torch code, and the SSD paper.

What is compared, and what is not:

    Transformer   Llama, whole: RMSNorm, SwiGLU, rotary halves, tied head
    Mamba-2       Mamba2, whole
    Jamba-style   Bamba, whole (its state-space mixer is Mamba-2, as ours); its partial rotation is widened to the whole
                  head, or stilled where ours has no positions
                  Jamba, with its mixers silenced (they are Mamba-1, which is not built here): where attention stands,
                  attention without positions, norms, MLPs and residuals
    Hymba-style   Falcon-H1, whole but for the norm after attention, which it lacks and the test takes out of ours
                  Ministral, with the state-space path silenced: local and global layers, shared keys and values
    Gated         Qwen3-Next, its hybrid of three layers to one of attention: the gate of attention is stilled at a
    DeltaNet      half, the partial rotation widened to the whole head, MLPs are dense
    Mamba-3       nothing: transformers has none
"""

import pytest
import torch
from peers import (
    D_MODEL,
    HEADS,
    LAYERS,
    LENGTH,
    SHARED,
    STATE,
    WITH_ATTENTION,
    assert_same_logits,
    ours,
    prepared,
    put,
    put_attention,
    put_block,
    tokens,
    transformers,
)
from torch import Tensor, nn

from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.mixers.mamba import Mamba2Config
from sisa_scale.models.kernels.ssd import ssd
from sisa_scale.models.mixers.gated_deltanet import GatedDeltaNet
from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.mamba2 import Mamba2
from sisa_scale.models.mixers.ssm_path import SsmPath

MAMBA2 = Mamba2Config(state_width=STATE, head_width=16, chunk_tokens=16)


def put_mamba2(peer: nn.Module, path: SsmPath, project: Tensor, norm: Tensor, out: Tensor) -> None:
    put(
        peer, in_proj__weight=project, conv1d__weight=path.conv.weight.T[:, None], conv1d__bias=path.conv.bias,
        dt_bias=path.dt_bias, A_log=path.a_log, D=path.skip, norm__weight=norm, out_proj__weight=out,
    )  # fmt: skip


def test_transformer_is_llama() -> None:
    model = ours("transformer")
    config = transformers.LlamaConfig(**SHARED, **WITH_ATTENTION, rms_norm_eps=1e-5)
    peer = prepared(transformers.LlamaForCausalLM(config), model, "norm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "mlp", "post_attention_layernorm")
        put_attention(layer.self_attn, block.mixer)
    assert_same_logits(model, peer)


def test_mamba2_is_mamba2() -> None:
    model = ours("mamba2", d_ff=0, num_heads=0, mamba2=MAMBA2)
    config = transformers.Mamba2Config(
        **SHARED, num_heads=2 * D_MODEL // 16, head_dim=16, state_size=STATE, n_groups=1, chunk_size=8
    )
    peer = prepared(transformers.Mamba2ForCausalLM(config), model, "norm_f")
    for block, layer in zip(model.blocks, peer.backbone.layers, strict=True):
        mixer = block.mixer
        put(layer.norm, weight=block.mixer_norm.weight)
        put_mamba2(layer.mixer, mixer.path, mixer.project.weight, mixer.norm.weight, mixer.out.weight)
    assert_same_logits(model, peer)


@pytest.mark.parametrize("position", ["rope", "none"])
def test_jamba_of_mamba2_is_bamba(position: str) -> None:
    jamba = JambaConfig(attention_every=2, attention_offset=1)
    model = ours("jamba", position=position, mamba2=MAMBA2, jamba=jamba)
    config = transformers.BambaConfig(
        **SHARED, **WITH_ATTENTION, rms_norm_eps=1e-5, attn_layer_indices=[1, 3], mamba_n_heads=4, mamba_d_state=STATE,
        mamba_chunk_size=8,
    )  # fmt: skip
    config.rope_parameters["partial_rotary_factor"] = 1.0
    peer = prepared(transformers.BambaForCausalLM(config), model, "final_layernorm")
    if position == "none":
        peer.model.rotary_emb.inv_freq.zero_()
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "feed_forward", "pre_ff_layernorm")
        mixer = block.mixer
        if isinstance(mixer, Mamba2):
            put_mamba2(layer.mamba, mixer.path, mixer.project.weight, mixer.norm.weight, mixer.out.weight)
        else:
            put_attention(layer.self_attn, mixer)
    assert_same_logits(model, peer)


def test_jamba_places_attention_as_jamba_does() -> None:
    layers, every, offset = 8, 4, 2
    jamba = JambaConfig(attention_every=every, attention_offset=offset)
    model = ours("jamba", num_layers=layers, position="none", mamba2=MAMBA2, jamba=jamba)
    config = transformers.JambaConfig(
        **{**SHARED, "num_hidden_layers": layers}, **WITH_ATTENTION, rms_norm_eps=1e-5, num_experts=1,
        attn_layer_period=every, attn_layer_offset=offset, use_mamba_kernels=False, mamba_d_state=STATE,
    )  # fmt: skip
    peer = prepared(transformers.JambaForCausalLM(config), model, "final_layernorm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "feed_forward", "pre_ff_layernorm")
        if isinstance(block.mixer, Mamba2):
            block.mixer.out.weight.data.zero_()
            layer.mamba.out_proj.weight.data.zero_()
        else:
            put_attention(layer.self_attn, block.mixer)
    assert_same_logits(model, peer)


def test_hymba_joins_its_paths_as_falcon_h1_does() -> None:
    hymba = HymbaConfig(num_kv_heads=2, state_width=STATE, expand=1, head_width=16, chunk_tokens=16)
    model = ours("hymba", hymba=hymba)
    config = transformers.FalconH1Config(
        **{**SHARED, **WITH_ATTENTION, "num_key_value_heads": 2}, rms_norm_eps=1e-5, mamba_d_ssm=D_MODEL,
        mamba_n_heads=2, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=STATE, mamba_chunk_size=8,
        mamba_rms_norm=True, mamba_norm_before_gate=False, ssm_out_multiplier=0.5, attention_out_multiplier=0.5,
    )  # fmt: skip
    peer = prepared(transformers.FalconH1ForCausalLM(config), model, "final_layernorm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "feed_forward", "pre_ff_layernorm")
        mixer = block.mixer
        assert isinstance(mixer, Hymba)
        mixer.attention_norm = nn.Identity()
        mixer.ssm_norm.epsilon = 1e-5
        attention, ssm = mixer.project.rows()
        q, k, v = attention.split(mixer.attention.widths)
        put(layer.self_attn, q_proj__weight=q, k_proj__weight=k, v_proj__weight=v, o_proj__weight=mixer.out.weight)
        put_mamba2(layer.mamba, mixer.ssm, ssm, mixer.ssm_norm.weight, mixer.out.weight)
    assert_same_logits(model, peer)


def test_windows_and_shared_keys_are_ministrals() -> None:
    window, kv_heads = 9, 2
    hymba = HymbaConfig(
        num_kv_heads=kv_heads, state_width=STATE, expand=1, head_width=16, window_tokens=window,
        global_layers="first_middle_last",
    )  # fmt: skip
    model = ours("hymba", hymba=hymba)
    config = transformers.MinistralConfig(
        **{**SHARED, **WITH_ATTENTION, "num_key_value_heads": kv_heads}, rms_norm_eps=1e-5, head_dim=D_MODEL // HEADS,
        sliding_window=window, layer_types=["full_attention"] * 2 + ["sliding_attention", "full_attention"],
    )  # fmt: skip
    peer = prepared(transformers.MinistralForCausalLM(config), model, "norm")
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "mlp", "post_attention_layernorm")
        mixer = block.mixer
        assert isinstance(mixer, Hymba)
        mixer.attention_norm = nn.Identity()
        mixer.ssm_norm.weight.data.zero_()
        out = 0.5 * mixer.out.weight  # of the mean with nothing
        q, k, v = mixer.project.rows()[0].split(mixer.attention.widths)
        put(layer.self_attn, q_proj__weight=q, k_proj__weight=k, v_proj__weight=v, o_proj__weight=out)
    assert_same_logits(model, peer)


def put_deltanet(peer: nn.Module, mixer: GatedDeltaNet, key_heads: int) -> None:
    """The peer's projections have the rows of one head of keys side by side: [q k v z] and [rate decay]."""
    q, k, v, z, decay, rate = (rows.unflatten(0, (key_heads, -1)) for rows in mixer.project.rows())
    qkvz, ba = (torch.cat(parts, 1).flatten(0, 1) for parts in ((q, k, v, z), (rate, decay)))
    put(
        peer, in_proj_qkvz__weight=qkvz, in_proj_ba__weight=ba, conv1d__weight=mixer.conv.weight.T[:, None],
        dt_bias=mixer.dt_bias, A_log=mixer.a_log, norm__weight=mixer.norm.weight, out_proj__weight=mixer.out.weight,
    )  # fmt: skip


@pytest.mark.parametrize("per_key", [1, 2])
def test_hybrids_of_gated_deltanet_are_qwen3_next(per_key: int) -> None:
    key_heads, width = 2, 8
    deltanet = GatedDeltaNetConfig(
        expand=per_key * key_heads * 16 / D_MODEL,
        key_width=width,
        head_width=16,
        heads_per_key=per_key,
        chunk_tokens=16,
    )
    pattern = ("gated_deltanet",) * 3 + ("attention",)
    model = ours("pattern", pattern=pattern, qk_norm=True, qk_norm_gain=True, gated_deltanet=deltanet)
    config = transformers.Qwen3NextConfig(
        **SHARED, **WITH_ATTENTION, rms_norm_eps=1e-5, head_dim=D_MODEL // HEADS, linear_num_key_heads=key_heads,
        linear_num_value_heads=per_key * key_heads, linear_key_head_dim=width, linear_value_head_dim=16,
        mlp_only_layers=list(range(LAYERS)), num_experts=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    )  # fmt: skip
    assert config.layer_types == ["linear_attention"] * 3 + ["full_attention"]
    peer = prepared(transformers.Qwen3NextForCausalLM(config), model, "norm")
    peer.model.norm.weight.data -= 1  # its norms but the gated one multiply by 1 + weight
    for block, layer in zip(model.blocks, peer.model.layers, strict=True):
        put_block(layer, block, "mlp", "post_attention_layernorm")
        layer.input_layernorm.weight.data -= 1
        layer.post_attention_layernorm.weight.data -= 1
        mixer = block.mixer
        if isinstance(mixer, GatedDeltaNet):
            put_deltanet(layer.linear_attn, mixer, key_heads)
            continue
        q, k, v, _ = mixer.qkv.rows()
        q_and_gate = torch.stack((q.unflatten(0, (HEADS, -1)), torch.zeros_like(q).unflatten(0, (HEADS, -1))), 1)
        put(
            layer.self_attn, q_proj__weight=q_and_gate.flatten(0, 2), k_proj__weight=k, v_proj__weight=v,
            o_proj__weight=2 * mixer.out.weight, q_norm__weight=mixer.query_norm.gain - 1,
            k_norm__weight=mixer.key_norm.gain - 1,
        )  # fmt: skip
    assert_same_logits(model, peer)

    document_L = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 3, 20, LENGTH - 24]))
    with torch.no_grad():
        found = model.head.logits(model.hidden(tokens(), document_L.repeat(2, 1)))
        alone = [peer(tokens()[:, document_L == document]).logits for document in range(4)]
    torch.testing.assert_close(found, torch.cat(alone, 1).double(), rtol=0, atol=2e-5)


def segment_sums(a: Tensor) -> Tensor:
    """Return S_ij = a_{j+1} + ... + a_i for j <= i, else -inf, each summed for itself."""
    size = a.shape[-1]
    rows = [[a[..., j + 1 : i + 1].sum(-1) if j <= i else torch.full_like(a[..., 0], -torch.inf) for j in range(size)]
            for i in range(size)]  # fmt: skip
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def blockwise_ssd(x: Tensor, a: Tensor, b: Tensor, c: Tensor, block: int) -> Tensor:
    """The block decomposition of Mamba-2's paper (2405.21060, section 6), one group, float64, by its four steps."""
    x, b, c = (t.unflatten(1, (-1, block)) for t in (x, b, c))
    a = a.unflatten(1, (-1, block)).permute(0, 3, 1, 2)  # batch, head, block, token
    within = segment_sums(a).exp()
    y_diagonal = torch.einsum("bzin,bzjn,bhzij,bzjhp->bzihp", c, b, within, x)
    right = torch.einsum("bzjn,bhzj,bzjhp->bzhpn", b, within[..., -1, :], x)
    totals = nn.functional.pad(a.sum(-1), (1, 0))
    between = segment_sums(totals).exp()
    carried = torch.einsum("bhzy,byhpn->bzhpn", between, nn.functional.pad(right, (0, 0) * 3 + (1, 0)))[:, :-1]
    left = a.cumsum(-1).exp()
    y_off_diagonal = torch.einsum("bzin,bzhpn,bhzi->bzihp", c, carried, left)
    return (y_diagonal + y_off_diagonal).flatten(1, 2)


@pytest.mark.parametrize("block", [4, 8])
def test_ssd_is_the_papers_block_decomposition(block: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x, b, c = (torch.randn(2, 32, *shape, generator=generator).double() for shape in ((3, 5), (6,), (6,)))
    a = -torch.rand(2, 32, 3, generator=generator).double()
    found, _ = ssd(x, a, b[:, :, None], c[:, :, None], chunk_tokens=16)
    torch.testing.assert_close(found, blockwise_ssd(x, a, b, c, block), rtol=0, atol=1e-12)
