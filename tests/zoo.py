"""One small model of every architecture, for tests."""

from typing import Any

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.mixers.mamba import Mamba2Config, Mamba3Config
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder

SISA, NORMALIZED = SisaConfig(d_s=16), SisaConfig(d_s=16, normalize_importance=True)
SMALL2, SMALL3 = Mamba2Config(state_width=16, head_width=32), Mamba3Config(state_width=16, head_width=32)
DELTANET = GatedDeltaNetConfig(expand=2.0, head_width=32, key_width=16, heads_per_key=2, chunk_tokens=32)
TINY: dict[str, dict[str, Any]] = {
    "transformer": {},
    "sisa": {"sisa": SISA},
    "mamba2": {"mamba2": SMALL2},
    "mamba3": {"mamba3": SMALL3},
    "mamba3 mimo": {"kind": "mamba3", "mamba3": Mamba3Config(state_width=16, head_width=32, mimo_rank=2)},
    "gated_deltanet": {"gated_deltanet": DELTANET},
    "jamba": {"mamba2": SMALL2, "jamba": JambaConfig(attention_every=4, attention_offset=1)},
    "jamba sisa": {
        "kind": "jamba",
        "mamba3": SMALL3,
        "sisa": SISA,
        "jamba": JambaConfig(attention_every=4, attention_offset=2, attention="sisa", state_space="mamba3"),
    },
    "hymba": {"hymba": HymbaConfig(num_kv_heads=1, state_width=8, head_width=32, num_meta_tokens=5)},
    "hymba local": {
        "kind": "hymba",
        "hymba": HymbaConfig(head_width=32, num_meta_tokens=3, window_tokens=32, global_layers="first_middle_last"),
    },
    "hymba sisa": {
        "kind": "hymba",
        "sisa": SISA,
        "hymba": HymbaConfig(attention="sisa", num_kv_heads=1, state_width=8, head_width=32, num_meta_tokens=5),
    },
    "hymba sisa local": {
        "kind": "hymba",
        "sisa": SISA,
        "hymba": HymbaConfig(
            attention="sisa", head_width=32, num_meta_tokens=3, window_tokens=32, global_layers="first_middle_last"
        ),
    },
    "transformer normalized": {"kind": "transformer", "qk_norm": True, "qk_norm_gain": True},
    "sisa normalized": {"kind": "sisa", "qk_norm": True, "sisa": NORMALIZED},
    "jamba sisa normalized": {
        "kind": "jamba",
        "qk_norm": True,
        "mamba2": SMALL2,
        "sisa": NORMALIZED,
        "jamba": JambaConfig(attention_every=2, attention_offset=1, attention="sisa"),
    },
    "hymba sisa normalized": {
        "kind": "hymba",
        "qk_norm": True,
        "qk_norm_gain": True,
        "sisa": NORMALIZED,
        "hymba": HymbaConfig(attention="sisa", num_kv_heads=1, state_width=8, head_width=32, num_meta_tokens=5),
    },
    "transformer block": {
        "kind": "transformer",
        "num_kv_heads": 1,
        "window_tokens": (None, 24),
        "output_gate": "per_channel",
        "position": ("rope", "rope", "none"),
        "rope_fraction": 0.5,
        "z_loss_weight": 1e-3,
    },
    "sisa block": {
        "kind": "sisa",
        "num_kv_heads": 1,
        "window_tokens": (None, 40),
        "output_gate": "per_head",
        "position": ("none", "rope"),
        "sisa": NORMALIZED,
    },
    "pattern": {"pattern": ("mamba3", "sisa"), "mamba3": SMALL3, "sisa": SISA},
}


def tiny(name: str, d_ff: int = 96) -> ModelConfig:
    settings = {"kind": name, **TINY[name]}
    return ModelConfig(
        num_layers=4,
        d_model=64,
        num_heads=2,
        d_ff=d_ff,
        vocab_size=100,
        vocab_multiple=1,
        max_length_tokens=256,
        **settings,
    )


def decoder(config: ModelConfig) -> Decoder:
    model = Decoder(config, ExecutionConfig(micro_batch_sequences=1, precision="fp32"), "math")
    model.initialise(0)
    return model
