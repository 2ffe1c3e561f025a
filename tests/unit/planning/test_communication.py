import pytest

from sisa_scale.config.run import RunConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.communication import Network, communication_seconds, sent_bytes
from sisa_scale.planning.devices import gpu_named
from sisa_scale.planning.speed import plan_time
from sisa_scale.planning.twins import load_recipe

AS_PUBLISHED = ("qk_norm=false", "normalize_importance=false")
MEASURED = [  # tokens/s of one H200, and two over one: docs/performance.md, "Two GPUs"
    ("sisa/152m-ds16", 16, 1, 365_100, 1.978),
    ("sisa/152m-ds16", 16, 2, 361_635, 1.926),
    ("sisa/1.3b", 4, 1, 53_261, 1.986),
    ("sisa/1.3b", 4, 2, 53_261, 1.857),
    ("sisa/1.3b", 8, 2, 53_368, 1.910),
    ("sisa/1.3b", 8, 3, 54_616, 1.890),
]


def loaded(recipe: str, *overrides: str) -> RunConfig:
    return load_recipe(recipe, overrides).config


@pytest.mark.parametrize(("recipe", "micro_batch", "stage", "speed", "ratio"), MEASURED)
def test_two_gpus_are_as_fast_as_measured(
    recipe: str, micro_batch: int, stage: int, speed: float, ratio: float
) -> None:
    settings = (f"micro_batch_sequences={micro_batch}", f"zero_stage={stage}", *AS_PUBLISHED)
    config = loaded(recipe, "workers=2", *settings)
    computing = config.data.global_batch_tokens / (2 * speed)
    sending = communication_seconds(config, gpu_named("h200"), Network())
    assert 2 * computing / (computing + sending) == pytest.approx(ratio, rel=0.015)


def test_what_each_stage_sends() -> None:
    config = loaded("sisa/152m-ds16", "workers=4", "micro_batch_sequences=16")
    once = 4 * count_parameters(config.model).total * 3 // 4
    micro_steps = config.accumulation_steps
    assert micro_steps > 1
    expected = {0: 2, 1: 3, 2: 2 * micro_steps + 1, 3: 2 * micro_steps}
    for stage, times in expected.items():
        settings = ("workers=4", "micro_batch_sequences=16", f"zero_stage={stage}")
        assert sent_bytes(loaded("sisa/152m-ds16", *settings)) == pytest.approx(times * once)


def test_weights_are_gathered_again_unless_they_stay() -> None:
    kept, gathered = (
        sent_bytes(loaded("sisa/1.3b", "workers=2", "zero_stage=3", f"reshard_after_forward={setting}"))
        for setting in ("false", "true")
    )
    params = count_parameters(loaded("sisa/1.3b").model).total
    assert gathered / kept == pytest.approx((2 + (params - 5e8) / params) / 2)


def test_eight_gpus_are_less_than_eight_and_hosts_slower_still() -> None:
    config, gpu = loaded("sisa/152m-ds16", "workers=8", "micro_batch_sequences=16"), gpu_named("h100")
    one = plan_time(loaded("sisa/152m-ds16", "micro_batch_sequences=16"), gpu)
    networks = (Network(), Network(4), Network(4, "ethernet"))
    runs = [plan_time(config, gpu, network) for network in networks]
    speeds = [run.tokens_per_second for run in runs]
    assert 8 * one.tokens_per_second > speeds[0] > speeds[1] > speeds[2]
    assert one.sending_share == 0
    assert [run.tokens_per_second / (8 * one.tokens_per_second) for run in runs] == pytest.approx(
        [1 - run.sending_share for run in runs]
    )
    named = [" ".join(run.assumptions) for run in runs]
    assert all(name in text for name, text in zip(("NVLink", "InfiniBand", "Ethernet"), named, strict=True))
