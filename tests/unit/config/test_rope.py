import math
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.config import RunConfig, load_config
from sisa_scale.config.loading.extension import check_begins, trained_config
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.rope import RopeConfig
from sisa_scale.config.run import to_plain
from sisa_scale.errors import ConfigError


def problems(base: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(base, overrides)
    return str(caught.value)


def used(plain: dict[str, Any], *overrides: str) -> RunConfig:
    return trained_config(plain, "the checkpoint", overrides)


@pytest.fixture
def plain(base: Path) -> dict[str, Any]:
    """What a checkpoint of a model trained at 64 tokens holds."""
    plain: dict[str, Any] = to_plain(load_config(base).config)
    return plain


def test_defaults_come_from_the_lengths() -> None:
    scaling = RopeConfig(scaling="yarn").resolve(8192, 2048)
    assert (scaling.factor, scaling.original_length_tokens) == (4.0, 2048)
    assert scaling.attention_factor == pytest.approx(1 + 0.1 * math.log(4))
    assert RopeConfig(scaling="yarn", original_length_tokens=1024).resolve(8192, 2048).factor == 8.0
    assert RopeConfig(scaling="linear", factor=3).resolve(8192, 2048).factor == 3
    none = RopeConfig(scaling="none").resolve(8192, 2048)
    assert (none.factor, none.attention_factor) == (1.0, 1.0)


def test_the_scaling_is_chosen_not_defaulted(base: Path) -> None:
    assert "model.rope.scaling" in problems(base, "model.rope={}")
    found = problems(base, "model.max_length_tokens=256", "model.trained_length_tokens=64")
    for word in ("none", "linear", "ntk", "yarn", "256", "64"):
        assert word in found
    for kind in ("none", "linear", "ntk", "yarn"):
        overrides = ["model.max_length_tokens=256", "model.trained_length_tokens=64", f"model.rope.scaling={kind}"]
        assert load_config(base, overrides).config.model.rope == RopeConfig(scaling=kind)  # type: ignore[arg-type]


def test_models_without_rotary_positions_have_no_choice_to_make(base: Path) -> None:
    longer = ["model.max_length_tokens=256", "model.trained_length_tokens=64", "model.position=none"]
    assert load_config(base, longer).config.model.max_length_tokens == 256
    assert "no rotary positions" in problems(base, *longer, "model.rope.scaling=none")
    mamba = ["model.kind=mamba2", "model.sisa=null", "model.mamba2={head_width: 32}"]
    assert load_config(base, [*mamba, *longer[:2]]).config.model.trained_length == 64


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.rope={scaling: none, factor: 2}", "model.rope.factor"),
        ("model.rope={scaling: linear, attention_factor: 2}", "model.rope.attention_factor"),
        ("model.rope={scaling: ntk, beta_fast: 16}", "model.rope.beta_fast"),
        ("model.rope={scaling: yarn, beta_slow: 64}", "model.rope.beta_fast"),
        ("model.rope={scaling: yarn, factor: 0.5}", "model.rope.factor"),
        ("model.rope={scaling: yarn, original_length_tokens: 65}", "model.rope.original_length_tokens"),
        ("model.trained_length_tokens=65", "model.max_length_tokens"),
    ],
)
def test_what_contradicts_itself_is_refused(base: Path, override: str, key: str) -> None:
    assert key in problems(base, override)


def test_a_trained_model_grows_by_an_explicit_choice(plain: dict[str, Any]) -> None:
    config = used(plain, "max_length_tokens=256", "rope.scaling=yarn", "evaluation.context_tokens=256")
    assert (config.model.max_length_tokens, config.model.trained_length) == (256, 64)
    assert config.model.rope is not None and config.model.rope.scaling == "yarn"
    assert config.evaluation.context_tokens == 256
    assert used(plain).model.trained_length_tokens is None
    with pytest.raises(ConfigError, match=r"model\.rope\.scaling"):
        used(plain, "max_length_tokens=256")
    with pytest.raises(ConfigError, match="trained_length_tokens 64"):
        used(plain, "max_length_tokens=32")


def test_a_choice_for_one_length_is_none_for_another(plain: dict[str, Any]) -> None:
    grown: dict[str, Any] = to_plain(used(plain, "max_length_tokens=256", "rope.scaling=yarn"))
    assert used(grown) == used(plain, "max_length_tokens=256", "rope.scaling=yarn")
    with pytest.raises(ConfigError, match=r"model\.rope\.scaling"):
        used(grown, "max_length_tokens=512")
    again = used(grown, "max_length_tokens=512", "rope.scaling=linear")
    assert (again.model.trained_length, again.model.rope) == (64, RopeConfig(scaling="linear"))


@pytest.mark.parametrize("override", ["model.num_layers=3", "model.trained_length_tokens=32", "seed=3", "sisa.d_s=8"])
def test_the_weights_of_a_trained_model_stay_what_they_are(plain: dict[str, Any], override: str) -> None:
    with pytest.raises(ConfigError, match="of a trained model"):
        used(plain, override)


def test_a_new_run_begins_with_weights_of_the_same_function(base: Path, plain: dict[str, Any]) -> None:
    def begin(*overrides: str) -> None:
        check_begins(plain, "the checkpoint", load_config(base, overrides).config.model)

    longer = ["max_length_tokens=256", "rope.scaling=yarn"]
    begin()
    begin(*longer, "trained_length_tokens=64", "rope_base=5e5", "data.sequence_tokens=256", "seed=3")
    with pytest.raises(ConfigError, match=r"trained_length_tokens: found 256.*Write 64"):
        begin("max_length_tokens=256")
    with pytest.raises(ConfigError, match=r"(?s)model\.d_ff.*found 64.*model\.sisa\.d_s"):
        begin("d_ff=64", "d_s=8")


def test_contexts_fit_the_model(base: Path) -> None:
    assert "evaluation.context_tokens" in problems(base, "evaluation.context_tokens=65")


@pytest.mark.parametrize(
    ("section", "trained", "longest", "form", "limit", "block"),
    [
        (SisaConfig(d_s=8), 2048, 2048, "single_call", 80 / 2048, 2048),
        (SisaConfig(d_s=8), 2048, 8192, "query_blocks", 80 / 2048, 2048),
        (SisaConfig(d_s=8, form="single_call"), 2048, 65536, "query_blocks", 80 / 2048, 2048),
        (SisaConfig(d_s=8), 65536, 65536, "query_blocks", math.inf, 128),
        (SisaConfig(d_s=8), 65536, 131072, "query_blocks", math.inf, 128),
        (SisaConfig(d_s=8, form="query_blocks"), 64, 8192, "query_blocks", math.inf, 64),
        (SisaConfig(d_s=8, form="published"), 64, 8192, "published", math.inf, 64),
        (SisaConfig(d_s=8, decay_kind="none"), 64, 8192, "single_call", math.inf, 64),
    ],
)
def test_a_longer_length_keeps_the_bound_of_the_decay(
    section: SisaConfig, trained: int, longest: int, form: str, limit: float, block: int
) -> None:
    assert section.form_at(longest, trained) == form
    assert section.decay_limit(trained) == limit
    assert section.queries_per_call(trained) == block
