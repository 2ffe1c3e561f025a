"""The paper's files, against its mathematics written out with explicit loops and matrices in float64."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from published_file import HEADS, LAYERS, STATE, VOCABULARY, WIDTH, State, published
from torch import Tensor
from torch.nn.functional import silu, softplus

from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.verify import streamed_logits
from sisa_scale.errors import CheckpointError, ConfigError


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(vector: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring channels (2i, 2i + 1) by angle i, with the matrix written out."""
    matrix = torch.zeros(len(vector), len(vector), dtype=vector.dtype)
    for i, angle in enumerate(angles.tolist()):
        c, s = math.cos(angle), math.sin(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, -s], [s, c]])
    return matrix @ vector


def expected_logits(state: State, tokens: Tensor) -> Tensor:
    """Return (L, V) of one sequence, one head and one pair of tokens at a time."""
    weights = {name: tensor.double() for name, tensor in state.items()}
    x, width = weights["embed.weight"][tokens], WIDTH // HEADS
    for layer in range(LAYERS):
        w = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in weights.items()}
        y = norm(x, w["attn_norm.weight"])
        heads = [one_head(w, y, head, width) for head in range(HEADS)]
        x = x + torch.cat(heads, -1) @ w["W_O.weight"].T
        y = norm(x, w["ffn_norm.weight"])
        x = x + (silu(y @ w["ffn.w_gate.weight"].T) * (y @ w["ffn.w_up.weight"].T)) @ w["ffn.w_down.weight"].T
    return norm(x, weights["final_norm.weight"]) @ weights["embed.weight"].T


def one_head(w: State, y: Tensor, head: int, width: int) -> Tensor:
    length, own = len(y), slice(head * width, (head + 1) * width)
    frequencies = torch.tensor([10000.0 ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    q, k = (
        torch.stack([turned(row, t * frequencies) for t, row in enumerate(y @ w[name].T[:, own])])
        for name in ("W_Q.weight", "W_K.weight")
    )
    logits = q @ k.T / width**0.5
    if "lambda_raw" in w:
        states = slice(head * STATE, (head + 1) * STATE)
        pairs = slice(head * STATE // 2, (head + 1) * STATE // 2)
        g = -softplus(y @ w["alpha_proj.weight"][head] + w["alpha_proj.bias"][head]).cumsum(0)
        phase = (y @ w["theta_proj.weight"][pairs].T).cumsum(0)
        e = (g - (g.max() + g.min()) / 2).clamp(-11, 11)
        c = [turned(row, phase[t]) for t, row in enumerate(y @ w["W_C.weight"][states].T)]
        b = [turned(row, phase[t]) for t, row in enumerate(y @ w["W_B.weight"][states].T)]
        for i in range(length):
            for j in range(i + 1):
                logits[i, j] += softplus(w["lambda_raw"][head]) * math.exp(e[i] - e[j]) * (c[i] @ b[j])
    logits = logits.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1) @ (y @ w["W_V.weight"].T[:, own])


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("has_state", [True, False])
def test_a_published_file_is_its_mathematics_and_comes_back_the_same(
    has_state: bool, prefix: str, tmp_path: Path
) -> None:
    saved = published(has_state)
    state = dict(saved["model"])
    saved["model"] = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(saved, tmp_path / "final.pt")
    convert(tmp_path / "final.pt", tmp_path / "native", "native")
    weights = open_weights(tmp_path / "native")
    said = weights.description
    assert (said.step, said.tokens, said.run.model.kind) == (7, 7168, "sisa" if has_state else "transformer")
    assert said.run.data.global_batch_tokens == 8 * 128

    length = 60  # the sums of log-decays exceed 22 nats, so that the published clamp acts
    tokens = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    wanted = expected_logits(state, tokens[0])
    found = streamed_logits(weights, tokens)[0].double()
    assert (found - wanted).abs().max() < 2e-4
    assert wanted.std() > 1

    convert(tmp_path / "native", tmp_path / "back.pt", "official")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back["model"]) == list(state)
    for name, tensor in state.items():
        assert back["model"][name].dtype == tensor.dtype
        assert torch.equal(back["model"][name], tensor)
    assert (back["step"], back["tokens_seen"]) == (7, 7168)


def test_the_clamp_acts_in_that_test() -> None:
    state = published(True)["model"]
    tokens = torch.randint(VOCABULARY, (60,), generator=torch.Generator().manual_seed(0))
    y = norm(state["embed.weight"].double()[tokens], state["layers.0.attn_norm.weight"].double())
    raw = y @ state["layers.0.alpha_proj.weight"].double().T + state["layers.0.alpha_proj.bias"].double()
    assert softplus(raw).sum(0).max() > 22


def test_fp32_weights_are_exported_as_fp32(tmp_path: Path) -> None:
    torch.save(published(True, torch.float32), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", "official")
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) and b[name].dtype == torch.float32 for name in a)


def test_another_function_is_not_exported_as_the_published_one(tmp_path: Path) -> None:
    from conversion_cases import native, small

    with pytest.raises(ConfigError, match="single_call"):
        convert(native(tmp_path / "a", small("sisa")), tmp_path / "b.pt", "official")
    for name in ("sisa normalized", "transformer normalized"):
        with pytest.raises(ConfigError, match="normalized queries and keys") as caught:
            convert(native(tmp_path / name, small(name)), tmp_path / "b.pt", "official")
        assert len(caught.value.problems) == 1
        shutil.rmtree(tmp_path / name)
    gated = small("transformer", output_gate="per_head", num_kv_heads=1)
    with pytest.raises(ConfigError, match=r"model\.num_kv_heads 1, model\.output_gate per_head.*no gate") as caught:
        convert(native(tmp_path / "gated", gated), tmp_path / "b.pt", "official")
    assert len(caught.value.problems) == 1
    shutil.rmtree(tmp_path / "gated")
    with pytest.raises(ConfigError, match="kind mamba2"):
        convert(native(tmp_path / "c", small("mamba2")), tmp_path / "b.pt", "official")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_heads_that_contradict_the_config_are_refused(tmp_path: Path) -> None:
    saved = published(True)
    saved["config"]["n_head"] = 4
    torch.save(saved, tmp_path / "final.pt")
    with pytest.raises(CheckpointError, match="n_head 4"):
        open_weights(tmp_path / "final.pt")
