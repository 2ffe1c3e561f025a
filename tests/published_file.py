"""A file of exactly the layout that the SISA paper's training program saves, of a small model."""

from typing import Any

import torch
from torch import Tensor

LAYERS, WIDTH, HEADS, STATE, HIDDEN, VOCABULARY = 2, 32, 2, 8, 40, 50
State = dict[str, Tensor]


def published(has_state: bool, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Return what the authors' training program saves, with weights of a size that matters."""
    draw = torch.Generator().manual_seed(4)

    def normal(*shape: int, std: float = 0.3) -> Tensor:
        return (std * torch.randn(shape, generator=draw)).to(dtype)

    state: State = {"embed.weight": normal(VOCABULARY, WIDTH, std=1.0)}
    for layer in range(LAYERS):
        at = f"layers.{layer}."
        if has_state:
            state[at + "lambda_raw"] = torch.linspace(-1.3, 0.4, HEADS)  # fp32 in the file
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            state[f"{at}{name}.weight"] = normal(WIDTH, WIDTH)
        if has_state:
            for name in ("W_B", "W_C"):
                state[f"{at}{name}.weight"] = normal(HEADS * STATE, WIDTH)
            state[at + "alpha_proj.weight"] = normal(HEADS, WIDTH, std=0.1)
            state[at + "alpha_proj.bias"] = normal(HEADS, std=0.5) - 1
            state[at + "theta_proj.weight"] = normal(HEADS * STATE // 2, WIDTH, std=0.1)
        for name in ("attn_norm", "ffn_norm"):
            state[f"{at}{name}.weight"] = 1 + normal(WIDTH)
        for name, shape in {"w_gate": (HIDDEN, WIDTH), "w_up": (HIDDEN, WIDTH), "w_down": (WIDTH, HIDDEN)}.items():
            state[f"{at}ffn.{name}.weight"] = normal(*shape)
    state["final_norm.weight"] = 1 + normal(WIDTH)
    config = {
        "model_type": "sisa" if has_state else "transformer",
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "d_ff": HIDDEN if not has_state else 1024,
        "d_ff_reduced": HIDDEN,
        "d_state": STATE,
        "max_seq_len": 128,
        "lr": 6e-4,
        "micro_batch": 2,
        "grad_accum": 4,
        "max_tokens": 100_000,
        "warmup_steps": 5,
    }
    adam = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": normal(3)}}, "param_groups": [{"lr": 1e-4}]}
    return {"model": state, "optimizer": adam, "scheduler": {"_step_count": 8}, "step": 7, "tokens_seen": 7168} | {
        "config": config
    }
