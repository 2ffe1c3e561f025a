import importlib
import json

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.execution import GATHERED_PARAMS
from sisa_scale.models.block import Block
from sisa_scale.training.engine.deepspeed_config import deepspeed_config


@pytest.mark.parametrize(("workers", "micro"), [(1, 1), (1, 16), (2, 8), (4, 2), (16, 1)])
def test_the_batch_is_the_product_of_its_parts(workers: int, micro: int) -> None:
    overrides = [f"workers={workers}", f"micro_batch_sequences={micro}", "global_batch_tokens=4096"]
    made = deepspeed_config(load_config("quickstart", overrides).config)
    assert made["train_batch_size"] == 16
    assert made["train_micro_batch_size_per_gpu"] * made["gradient_accumulation_steps"] * workers == 16


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_settings_arrive(stage: int, precision: str) -> None:
    overrides = [f"zero_stage={stage}", f"precision={precision}", "gradient_clip_norm=0.5"]
    made = deepspeed_config(load_config("quickstart", overrides).config)
    assert made["zero_optimization"]["stage"] == stage
    assert made["gradient_clipping"] == 0.5
    assert made["torch_autocast"]["enabled"] is (precision == "bf16")
    assert made["torch_autocast"]["lower_precision_safe_modules"] == []
    assert not {"bf16", "fp16", "optimizer", "scheduler"} & made.keys()
    assert json.loads(json.dumps(made)) == made


def test_stage_3_gathers_blocks_and_nothing_else_does() -> None:
    for stage in range(4):
        zero = deepspeed_config(load_config("quickstart", [f"zero_stage={stage}"]).config)["zero_optimization"]
        classes = zero.get("leaf_module", {}).get("classes", [])
        assert [get_class(name) for name in classes] == ([Block] if stage == 3 else [])
        # DeepSpeed's own product has every block compiled anew (seen with torch 2.11).
        assert zero.get("memory_efficient_linear") is (False if stage == 3 else None)


@pytest.mark.parametrize(("setting", "is_limited"), [("true", True), ("false", False)])
def test_weights_stay_gathered_only_if_asked(setting: str, is_limited: bool) -> None:
    overrides = ["zero_stage=3", f"reshard_after_forward={setting}"]
    zero = deepspeed_config(load_config("quickstart", overrides).config)["zero_optimization"]
    limits = zero["stage3_max_live_parameters"], zero["stage3_max_reuse_distance"]
    assert all((limit == GATHERED_PARAMS) is is_limited and limit >= GATHERED_PARAMS for limit in limits)


def get_class(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
