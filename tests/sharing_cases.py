"""Models whose sequences workers share, in all their forms."""

import dataclasses
from dataclasses import dataclass

from zoo import TINY, tiny

from sisa_scale.config.execution import Recomputation
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig

LENGTH = 160


@dataclass(frozen=True, slots=True)
class Case:
    model: ModelConfig
    is_separate: bool = False
    recomputation: Recomputation = "none"
    is_compiled: bool = False


MODELS = {name: tiny(name) for name in TINY}
for one in ("hymba", "hymba sisa"):  # each worker has one of two heads of keys and values, or all three
    for groups, width in ((2, 64), (3, 96)):
        section = dataclasses.replace(MODELS[one].hymba, num_kv_heads=groups)
        fields = {"d_model": width, "num_heads": 2 * groups, "hymba": section}
        MODELS[f"{one}, {groups} groups"] = dataclasses.replace(MODELS[one], **fields)
for one in ("transformer block", "sisa block"):
    MODELS[f"{one}, 2 groups"] = dataclasses.replace(MODELS[one], num_heads=4, num_kv_heads=2)
no_meta_tokens = dataclasses.replace(MODELS["hymba sisa local"].hymba, num_meta_tokens=0)
MODELS["no meta tokens"] = dataclasses.replace(MODELS["hymba sisa local"], hymba=no_meta_tokens)
FORMS = {
    "query blocks": SisaConfig(d_s=16, form="query_blocks", block_tokens=32),
    "query blocks, fast decay": SisaConfig(d_s=16, form="query_blocks", block_tokens=32, decay_bias_init=4.0),
    "published": SisaConfig(d_s=16, form="published"),
    "forget gate": SisaConfig(d_s=16, decay_kind="forget_gate", has_rotation=False),
    "alibi": SisaConfig(d_s=16, decay_kind="alibi", has_rotation=False),
    "sigmoid": SisaConfig(d_s=16, activation="sigmoid"),
    "no decay": SisaConfig(d_s=16, decay_kind="none"),
}
CASES = {name: Case(model) for name, model in MODELS.items()}
CASES |= {name: Case(dataclasses.replace(MODELS["sisa"], sisa=sisa)) for name, sisa in FORMS.items()}
CHANNELS = SisaConfig(d_s=16, decay_kind="channels", has_rotation=False)
CASES["channels"] = Case(dataclasses.replace(MODELS["sisa"], position="none", sisa=CHANNELS))
for grouped in ("hymba sisa, 2 groups", "hymba sisa, 3 groups"):
    CASES[f"{grouped}, no decay"] = Case(dataclasses.replace(MODELS[grouped], sisa=FORMS["no decay"]))
    fast = FORMS["query blocks, fast decay"]
    CASES[f"{grouped}, fast decay"] = Case(dataclasses.replace(MODELS[grouped], sisa=fast))
for apart in (
    "transformer",
    "sisa",
    "query blocks",
    "query blocks, fast decay",
    "mamba2",
    "mamba3 mimo",
    "gated_deltanet",
    "no meta tokens",
    "transformer block",
    "sisa block",
):
    CASES[f"{apart}, documents apart"] = Case(CASES[apart].model, is_separate=True)
CASES["jamba sisa, selective"] = Case(MODELS["jamba sisa"], recomputation="selective")
CASES["jamba sisa, full"] = Case(MODELS["jamba sisa"], recomputation="full")
CASES["jamba sisa, compiled"] = Case(MODELS["jamba sisa"], recomputation="selective", is_compiled=True)
CASES["hymba sisa local, compiled"] = Case(MODELS["hymba sisa local"], recomputation="selective", is_compiled=True)
