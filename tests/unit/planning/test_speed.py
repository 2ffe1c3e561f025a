import pytest

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.planning.devices import GPUS, gpu_named
from sisa_scale.planning.speed import FAR, NEAR, plan_time, recomputed_share
from sisa_scale.planning.twins import load_recipe

MEASURED = {  # tokens per second on one H100: docs/performance.md
    ("paper/transformer/152m",): 385_939,
    ("paper/sisa/152m-ds16",): 338_754,
    ("jamba/152m", "qk_norm=false"): 285_795,
    ("mamba2/152m-mlp",): 268_199,
    ("mamba3/152m-mlp",): 281_322,
    ("hymba/152m", "qk_norm=false"): 217_436,
}


def loaded(recipe: str, *overrides: str) -> RunConfig:
    return load_recipe(recipe, overrides).config


@pytest.mark.parametrize("recipe", MEASURED, ids=" ".join)
def test_speeds_measured_on_an_h100(recipe: tuple[str, ...]) -> None:
    run = plan_time(loaded(*recipe), gpu_named("h100"))
    # Jamba is not in the table: its layers' kinds are.
    assert run.tokens_per_second == pytest.approx(MEASURED[recipe], rel=0.02 if recipe[0] == "jamba/152m" else 0.01)
    assert run.uncertainty == NEAR
    assert run.assumptions == ()


@pytest.mark.parametrize(
    ("recipe", "share"), [("transformer/152m", 393_207 / 407_848), ("sisa/152m", 334_656 / 350_765)]
)
def test_norms_cost_what_they_cost_on_an_h200(recipe: str, share: float) -> None:
    normalized, published = (
        plan_time(loaded(name), gpu_named("h100")).tokens_per_second for name in (recipe, f"paper/{recipe}")
    )
    assert normalized / published == pytest.approx(share, rel=0.001)


def test_hours_and_cost() -> None:
    run = plan_time(loaded("sisa/152m-ds16", "resources.workers=8"), gpu_named("h100"))
    assert run.gpu_hours == pytest.approx(8 * run.seconds / 3600)
    assert run.seconds == pytest.approx(run.total_tokens / run.tokens_per_second)
    assert run.cost(2.5) == pytest.approx(2.5 * run.gpu_hours)
    assert run.uncertainty == FAR
    assert any("NVLink" in assumption for assumption in run.assumptions)


def test_what_was_not_measured_is_said() -> None:
    compared = ("compile=false", "activation_checkpointing=full", "micro_batch_sequences=1", "float8_products=true")
    for override in compared:
        assert len(plan_time(loaded("sisa/152m-ds16", override), gpu_named("h100")).assumptions) == 1
    assert plan_time(loaded("sisa/152m-ds16"), gpu_named("a100-80")).uncertainty == FAR
    assert plan_time(loaded("sisa/1.3b"), gpu_named("h100")).uncertainty == FAR


def test_recomputation_costs_a_forward_pass_of_the_blocks() -> None:
    none, half, full = (
        loaded("transformer/152m", f"activation_checkpointing={mode}") for mode in ("none", "2", "full")
    )
    assert recomputed_share(none) == 0
    assert recomputed_share(full) == pytest.approx(2 * recomputed_share(half))
    assert 0.2 < recomputed_share(full) < 1 / 3
    slower = plan_time(full, gpu_named("h100")).tokens_per_second / plan_time(none, gpu_named("h100")).tokens_per_second
    assert slower == pytest.approx(1 / (1 + recomputed_share(full)))


def test_query_blocks_are_slow() -> None:
    single, blocks = loaded("sisa/152m-ds16"), loaded("sisa/152m-ds16", "form=query_blocks")
    gpu = gpu_named("h100")
    assert plan_time(blocks, gpu).tokens_per_second < 0.5 * plan_time(single, gpu).tokens_per_second


def test_gpus_by_name() -> None:
    assert gpu_named("H100").memory_bytes == 80 * 10**9
    assert all(gpu.peak_flops > 3e14 for gpu in GPUS.values())
    with pytest.raises(ConfigError, match="one of a100-40"):
        gpu_named("v100")
