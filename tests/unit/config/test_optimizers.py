import sys
from dataclasses import replace
from subprocess import run

import pytest

from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.config.optimizers.adamw import ADAMW
from sisa_scale.config.optimizers.muon import MUON
from sisa_scale.config.optimizers.spec import ParameterGroup, State, standard_groups
from sisa_scale.config.optimizers.table import OPTIMIZERS

SHAPES = {"embedding.weight": [6, 4], "norm.weight": [4], "mixer.lambda_raw": [2], "scalar": []}


def test_adamw_is_described_as_torch_has_it() -> None:
    config = OptimizerConfig(learning_rate=1e-3, beta1=0.8)
    assert config.spec is ADAMW
    assert ADAMW.state_names == ("exp_avg", "exp_avg_sq")
    assert ADAMW.count_names == ("step",)
    assert ADAMW.hyperparameters(config) == {"betas": (0.8, 0.95), "eps": 1e-8}
    assert ADAMW.checkpoint_bytes(SHAPES) == 12 * (24 + 4 + 2 + 1)
    assert not ADAMW.whole(SHAPES)


def test_muon_is_described_as_its_class_has_it() -> None:
    shapes = SHAPES | {"blocks.0.mixer.qkv.weight": [12, 4], "blocks.0.mixer.path.conv.weight": [4, 8]}
    assert MUON.whole(shapes) == ("blocks.0.mixer.qkv.weight",)
    states = MUON.stored_states(shapes)
    assert states.pop("blocks.0.mixer.qkv.weight") == ("momentum",)
    assert set(states.values()) == {("exp_avg", "exp_avg_sq")}
    assert MUON.state_elements(shapes) == 48 + 2 * (24 + 4 + 2 + 1 + 32)
    assert MUON.checkpoint_bytes(shapes) == 4 * (48 + 31 + 32 + MUON.state_elements(shapes))
    assert MUON.group("blocks.0.mixer.qkv.weight", [12, 4]).counts == ()
    assert MUON.group("norm.weight", [4]).counts == ("step",)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_kinds_are_names_of_their_specs_and_every_parameter_has_one_group(kind: str) -> None:
    spec = OPTIMIZERS[kind]
    assert spec.kind == kind
    for name, shape in (SHAPES | {"blocks.3.mlp.down.weight": [4, 9]}).items():
        assert sum(group.takes(name, shape) for group in spec.groups) == 1


def test_groups() -> None:
    groups = {name: ADAMW.group(name, shape).name for name, shape in SHAPES.items()}
    assert list(groups.values()) == ["matrices", "vectors", "lambda", "vectors"]


def test_groups_may_have_states_of_their_own() -> None:
    matrices, *others = ADAMW.groups
    momentum = ParameterGroup("matrices", (State("momentum"),), matrices.takes, matrices.settings)
    spec = replace(ADAMW, groups=(momentum, *others))
    states = spec.stored_states(SHAPES)
    assert states["embedding.weight"] == ("momentum",)
    assert states["norm.weight"] == ("exp_avg", "exp_avg_sq")
    assert spec.state_names == ("momentum", "exp_avg", "exp_avg_sq")
    assert spec.state_elements(SHAPES) == 24 + 2 * (4 + 2 + 1)


def test_an_optimizer_without_states_stores_weights() -> None:
    spec = replace(ADAMW, groups=standard_groups())
    assert (spec.state_names, spec.count_names, spec.checkpoint_bytes({"weight": [10]})) == ((), (), 40)


def test_descriptions_need_no_torch() -> None:
    program = "import sys, sisa_scale.config.optimizers.table; assert 'torch' not in sys.modules"
    assert run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_moving_average_is_one_more_state_of_every_weight(kind: str) -> None:
    plain = OptimizerConfig(kind=kind, learning_rate=1e-3)
    averaged = replace(plain, ema_half_life_tokens=1000.0)
    before, after = plain.spec.stored_states(SHAPES), averaged.spec.stored_states(SHAPES)
    assert after == {name: (*states, "ema") for name, states in before.items()}
    num_elements = 24 + 4 + 2 + 1
    assert averaged.spec.checkpoint_bytes(SHAPES) == plain.spec.checkpoint_bytes(SHAPES) + 4 * num_elements
    assert [averaged.average_decay(tokens) for tokens in (0, 1000, 3000)] == [1, 0.5, 0.125]
